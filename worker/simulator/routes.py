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
    "GET balloon/hinting/status",
    "GET hotplug/memory",
}
IDENTIFIED = {"drives": "drive_id", "network-interfaces": "iface_id", "pmem": "id"}
MAY_BE_EMPTY = {"PATCH balloon/hinting/start", "PATCH balloon/hinting/stop"}
# The minor version that brought a request (release notes); those of the others are older than 1.12.
SINCE = {
    "PUT serial": 14,
    "PUT pmem": 14,
    "PATCH pmem": 16,
    "DELETE pmem": 16,
    "DELETE drives": 16,
    "DELETE network-interfaces": 16,
    "GET hotplug/memory": 14,
    "PUT hotplug/memory": 14,
    "PATCH hotplug/memory": 14,
    "PATCH balloon/hinting/start": 14,
    "PATCH balloon/hinting/stop": 14,
    "GET balloon/hinting/status": 14,
}
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
    "PUT pmem",
    "PUT hotplug/memory",
    "PUT snapshot/load",
    "PUT actions InstanceStart",
}
ONLY_AFTER = {
    "PATCH vm",
    "PUT snapshot/create",
    "PATCH drives",
    "PATCH network-interfaces",
    "PATCH balloon",
    "PATCH balloon/statistics",
    "PATCH balloon/hinting/start",
    "PATCH balloon/hinting/stop",
    "PATCH pmem",
    "PATCH hotplug/memory",
    "GET balloon/statistics",
    "GET balloon/hinting/status",
    "GET hotplug/memory",
    "PUT actions FlushMetrics",
    "PUT actions SendCtrlAltDel",
}
KEEPS_LOADABLE = {"PUT logger", "PUT metrics", "PUT serial", "PUT cpu-config"}


def route(method: str, path: str, raw: bytes, *, minor: int) -> tuple[str, str | None]:
    """The request's key (`PUT drives`) and what follows it in the path, for version 1.`minor`.

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
    if method in ("PUT", "PATCH") and not raw and key not in MAY_BE_EMPTY:
        raise ApiFault(f"Empty {method} request.")
    if key == "PUT snapshot":
        raise ApiFault("Missing snapshot operation type.")
    known = key in READS or key in bodies(minor) or (method == "DELETE" and first in IDENTIFIED)
    if known and minor >= SINCE.get(key, 0):
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
