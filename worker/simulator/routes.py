"""Which requests exist, when they are allowed, and how a body is checked before that."""

from __future__ import annotations

from typing import Any

from worker.simulator.errors import ApiFault
from worker.simulator.schemas import bodies

READS = {"GET ", "GET machine-config", "GET vm/config"}
IDENTIFIED = {"drives": "drive_id", "network-interfaces": "iface_id"}
# The minor version that introduced a request (release notes); the others are older than 1.12.
SINCE = {"PUT serial": 14}
ONLY_BEFORE = {
    "PUT boot-source",
    "PUT logger",
    "PUT serial",
    "PUT machine-config",
    "PATCH machine-config",
    "PUT drives",
    "PUT network-interfaces",
    "PUT vsock",
    "PUT entropy",
    "PUT cpu-config",
    "PUT snapshot/load",
    "PUT actions InstanceStart",
}
ONLY_AFTER = {"PATCH vm", "PUT snapshot/create", "PUT actions SendCtrlAltDel"}
KEEPS_LOADABLE = {
    "PUT logger",
    "PUT serial",
    "PUT cpu-config",
    "PUT snapshot/load",
    "PUT actions InstanceStart",
}


def route(method: str, path: str, raw: bytes, *, minor: int) -> tuple[str, str | None]:
    """The request's key (`PUT drives`) and the rest of its path, for version 1.`minor`.

    Raises:
        ApiFault: no such request, or it has a body and must not, or needs one and has none.
    """
    first, _, rest = path.lstrip("/").partition("/")
    tail = rest.rstrip("/") or None
    key = f"{method} {first}"
    if first in ("snapshot", "vm") and tail is not None:
        key = f"{key}/{tail}"
    if method == "GET" and raw:
        raise ApiFault("GET request cannot have a body.")
    if method in ("PUT", "PATCH") and not raw:
        raise ApiFault(f"Empty {method} request.")
    if key == "PUT snapshot":
        raise ApiFault("Missing snapshot operation type.")
    if (key in READS or key in bodies(minor)) and minor >= SINCE.get(key, 0):
        return key, tail
    if key.startswith("PUT snapshot/"):
        raise ApiFault(f"Invalid request method and/or path: PUT /snapshot/{tail}.")
    raise ApiFault(f"Invalid request method and/or path: {method} {first}.")


def check_body(key: str, tail: str | None, body: Any) -> None:
    """Returns if the body agrees with the path, and its fields with each other.

    Raises:
        ApiFault: they do not.
    """
    first = key.split(" ", 1)[1]
    if first in IDENTIFIED:
        inside = body[IDENTIFIED[first]]
        if tail is None:
            raise ApiFault("The ID cannot be empty.")
        if not tail.replace("_", "a").isalnum():
            raise ApiFault(
                "API Resource IDs can only contain alphanumeric characters and underscores."
            )
        if tail != inside and first != "network-interfaces":
            raise ApiFault("The id from the path does not match the id from the body!")
        if tail != inside:
            raise ApiFault(
                f"The id from the path [{tail}] does not match the id from the body [{inside}]!"
            )
    if key == "PATCH machine-config" and not body:
        raise ApiFault("Empty PATCH request.")
    if key == "PUT snapshot/load" and ("mem_backend" in body) == ("mem_file_path" in body):
        count, end = (
            ("too many fields", "exclusively is")
            if "mem_backend" in body
            else ("missing field", "is")
        )
        raise ApiFault(
            "An error occurred when deserializing the json body of a request: "
            f"{count}: either `mem_backend` or `mem_file_path` {end} required."
        )
