"""Which requests there are, when they are allowed, and what is checked before they are."""

from __future__ import annotations

from typing import Any

from worker.simulator.schemas import bodies
from worker.simulator.words import ApiFault

READS = {
    "GET ",
    "GET version",
    "GET machine-config",
    "GET vm/config",
    "GET mmds",
    "GET balloon",
    "GET balloon/statistics",
    "GET hotplug/memory",
}
IDENTIFIED = {"drives": "drive_id", "network-interfaces": "iface_id"}
ONLY_BEFORE = {
    "PUT boot-source",
    "PUT logger",
    "PUT metrics",
    "PUT serial",
    "PUT machine-config",
    "PATCH machine-config",
    "PUT drives",
    "PUT network-interfaces",
    "PUT vsock",
    "PUT entropy",
    "PUT balloon",
    "PUT cpu-config",
    "PUT mmds/config",
    "PUT snapshot/load",
    "PUT actions InstanceStart",
}
ONLY_AFTER = {
    "PATCH vm",
    "PUT snapshot/create",
    "PATCH drives",
    "PATCH network-interfaces",
    "PATCH balloon",
    "GET balloon/statistics",
    "GET hotplug/memory",
    "PUT actions FlushMetrics",
    "PUT actions SendCtrlAltDel",
}
KEEPS_LOADABLE = {"PUT logger", "PUT metrics", "PUT serial", "PUT cpu-config"}


def route(method: str, path: str, raw: bytes) -> tuple[str, str | None]:
    """The request's key (`PUT drives`) and what follows it in the path.

    Raises:
        ApiFault: there is no such request, or a body is there that should not be, or missing.
    """
    first, _, rest = path.lstrip("/").partition("/")
    tail = rest.rstrip("/") or None
    key = f"{method} {first}"
    if first in ("snapshot", "mmds", "vm", "balloon", "hotplug") and tail is not None:
        key = f"{key}/{tail}"
    if method == "GET" and raw:
        raise ApiFault("GET request cannot have a body.")
    if method in ("PUT", "PATCH") and not raw:
        raise ApiFault(f"Empty {method} request.")
    if key == "PUT snapshot":
        raise ApiFault("Missing snapshot operation type.")
    if key in READS or key in bodies(17) or (method == "DELETE" and first in IDENTIFIED):
        return key, tail
    if key.startswith("PUT snapshot/"):
        raise ApiFault(f"Invalid request method and/or path: PUT /snapshot/{tail}.")
    if key.startswith("PUT mmds/"):
        raise ApiFault(f"Unrecognized PUT request path `{tail}`.")
    raise ApiFault(f"Invalid request method and/or path: {method} {first}.")


def check_body(key: str, tail: str | None, body: Any) -> None:
    """Nothing, if the body goes with the path and its fields with each other.

    Raises:
        ApiFault: they do not.
    """
    method, first = key.split(" ", 1)
    if first in IDENTIFIED and method != "DELETE":
        inside = body[IDENTIFIED[first]]
        if tail is None:
            raise ApiFault("The ID cannot be empty.")
        if not tail.replace("_", "a").isalnum():
            raise ApiFault(
                "API Resource IDs can only contain alphanumeric characters and underscores."
            )
        if tail != inside and first == "drives":
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


def is_deprecated(key: str, body: Any) -> bool:
    """Whether the body has a field that will go away."""
    match key:
        case "PUT vsock":
            return "vsock_id" in body
        case "PUT machine-config" | "PATCH machine-config":
            return "cpu_template" in body
        case "PUT snapshot/load":
            return "mem_file_path" in body or bool(body.get("enable_diff_snapshots"))
        case "PUT mmds/config":
            return bool(body.get("version", "V1") == "V1")
        case _:
            return False
