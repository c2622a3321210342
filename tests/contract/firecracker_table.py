"""Requests in order, with the faults that Firecracker answers; recorded from 1.17.0-dev."""

from __future__ import annotations

from typing import Any

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."
BODY = "An error occurred when deserializing the json body of a request: "
MISSING = "No such file or directory (os error 2)"
VCPUS = (
    "Machine config error: The number of vCPUs must be greater than 0, less than 32 and must be "
    "1 or an even number if SMT is enabled."
)
START = {"action_type": "InstanceStart"}
CREATE = {"snapshot_path": "vmstate", "mem_file_path": "mem"}
LOAD = {"snapshot_path": "vmstate", "mem_backend": {"backend_type": "File", "backend_path": "mem"}}
ROOT = {
    "drive_id": "root",
    "path_on_host": "disk",
    "is_root_device": True,
    "is_read_only": False,
}
BLOCK = (
    "Drive config error: Unable to create the virtio block device: Virtio backend error: Error "
    "manipulating the backing file: "
)
VSOCK = (
    "Vsock config error: Cannot create backend for vsock device: Error binding to the host-side "
    "Unix socket: "
)
SIZE = {"vcpu_count": 1, "mem_size_mib": 16, "track_dirty_pages": True}
ADDRESS_IN_USE = "Address in use (os error 98)"
Row = tuple[str, str, Any, str | None]  # method, path, body, fault message or None for 200 and 204

NOT_STARTED: list[Row] = [
    ("GET", "/", None, None),
    ("GET", "/vm/config", None, None),
    ("GET", "/vm", None, "Invalid request method and/or path: GET vm."),
    ("PUT", "/foo", {}, "Invalid request method and/or path: PUT foo."),
    ("PUT", "/foo", None, "Empty PUT request."),
    ("PATCH", "/vm", {"state": "Paused"}, BEFORE),
    (
        "PATCH",
        "/vm",
        {"state": "Running"},
        f"{BODY}unknown variant `Running`, expected `Paused` or `Resumed` at line 1 column 19.",
    ),
    ("PUT", "/snapshot/foo", {}, "Invalid request method and/or path: PUT /snapshot/foo."),
    ("PUT", "/snapshot/create", CREATE, BEFORE),
    (
        "PUT",
        "/snapshot/load",
        {"snapshot_path": "a"},
        f"{BODY}missing field: either `mem_backend` or `mem_file_path` is required.",
    ),
    (
        "PUT",
        "/actions",
        START,
        "Start microvm error: Cannot start microvm without kernel configuration.",
    ),
    ("PUT", "/actions", {"action_type": "SendCtrlAltDel"}, BEFORE),
    ("PUT", "/actions", {}, f"{BODY}missing field `action_type` at line 1 column 2."),
    (
        "PUT",
        "/boot-source",
        {"kernel_image_path": "nope"},
        f"Boot source error: The kernel file cannot be opened: {MISSING}",
    ),
    (
        "PUT",
        "/boot-source",
        {"kernel_image_path": 5},
        f"{BODY}invalid type: integer `5`, expected a string at line 1 column 23.",
    ),
    (
        "PUT",
        "/boot-source",
        {"kernel_image_path": "kernel", "boot_args": "x" * 2049},
        "Boot source error: The kernel command line is invalid: Invalid cmdline capacity provided.",
    ),
    ("PUT", "/machine-config", {"vcpu_count": 0, "mem_size_mib": 128}, VCPUS),
    ("PUT", "/machine-config", {"vcpu_count": 33, "mem_size_mib": 128}, VCPUS),
    (
        "PUT",
        "/machine-config",
        {"vcpu_count": 1, "mem_size_mib": 0},
        "Machine config error: The memory size (MiB) is either 0, or not a multiple of the "
        "configured page size.",
    ),
    ("PATCH", "/machine-config", {}, "Empty PATCH request."),
    (
        "PUT",
        "/drives/root",
        ROOT | {"drive_id": "b"},
        "The id from the path does not match the id from the body!",
    ),
    (
        "PUT",
        "/drives/a-b",
        ROOT | {"drive_id": "a-b"},
        "API Resource IDs can only contain alphanumeric characters and underscores.",
    ),
    ("PUT", "/drives/root", ROOT | {"path_on_host": "nope"}, f"{BLOCK}{MISSING} nope"),
    ("PUT", "/drives/root", ROOT, None),
    ("PUT", "/drives/root", ROOT, None),
    (
        "PUT",
        "/drives/other",
        ROOT | {"drive_id": "other"},
        "Drive config error: A root block device already exists!",
    ),
    (
        "PUT",
        "/network-interfaces/eth0",
        {"iface_id": "eth1", "host_dev_name": "x"},
        "The id from the path [eth0] does not match the id from the body [eth1]!",
    ),
    ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "no/v"}, f"{VSOCK}{MISSING}"),
    (
        "PUT",
        "/vsock",
        {"guest_cid": 3, "uds_path": "stale"},
        f"{VSOCK}Address in use (os error 98)",
    ),
    ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v"}, None),
    ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v"}, None),
    ("PUT", "/entropy", {}, None),
    (
        "PUT",
        "/logger",
        {"log_path": "no/l"},
        f"Logger error: Failed to open target file: {MISSING}",
    ),
    ("PUT", "/serial", {"serial_out_path": "console"}, None),
    ("PUT", "/boot-source", {"kernel_image_path": "kernel", "boot_args": "console=ttyS0"}, None),
    ("PUT", "/machine-config", SIZE, None),
    (
        "PUT",
        "/snapshot/load",
        LOAD,
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
        "boot-specific resources.",
    ),
    ("PUT", "/actions", START, None),
]
RUNNING: list[Row] = [
    ("PUT", "/actions", START, AFTER),
    ("PUT", "/boot-source", {"kernel_image_path": "kernel"}, AFTER),
    ("PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 16}, AFTER),
    ("PUT", "/vsock", {"guest_cid": 3, "uds_path": "v"}, AFTER),
    ("PUT", "/logger", {"level": "Info"}, AFTER),
    ("PUT", "/serial", {}, AFTER),
    ("PUT", "/snapshot/load", LOAD, AFTER),
    (
        "PUT",
        "/snapshot/create",
        CREATE,
        "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
        "save/restore unavailable while running",
    ),
    ("PATCH", "/vm", {"state": "Resumed"}, None),
    ("PATCH", "/vm", {"state": "Paused"}, None),
]
PAUSED: list[Row] = [
    ("PATCH", "/vm", {"state": "Paused"}, None),
    (
        "PUT",
        "/snapshot/create",
        CREATE | {"snapshot_path": "no/v"},
        f"Create snapshot error: Cannot perform open on the snapshot backing file: {MISSING}",
    ),
    (
        "PUT",
        "/snapshot/create",
        CREATE | {"mem_file_path": "no/m"},
        f"Create snapshot error: Cannot perform open on the memory backing file: {MISSING}",
    ),
    ("PUT", "/snapshot/create", CREATE, None),
    ("PUT", "/snapshot/create", CREATE | {"snapshot_type": "Diff", "mem_file_path": "d"}, None),
]
RESTORE = "Load snapshot error: Failed to restore from snapshot: "
STATE = f"{RESTORE}Failed to get snapshot state from file: "
DEVICES = (
    f"{RESTORE}Failed to build microVM from snapshot: Failed to restore devices: Error restoring "
    "MMIO devices: "
)
MEMORY = f"{RESTORE}Failed to load guest memory: Error creating guest memory from file: Failed to "
FAILED_LOADS: list[tuple[str, dict[str, Any], str]] = [  # what to spoil, body, fault
    (
        "vmstate",
        LOAD | {"snapshot_path": "nope"},
        f"{STATE}Failed to open snapshot file: {MISSING}",
    ),
    (
        "memory",
        LOAD | {"mem_backend": {"backend_type": "File", "backend_path": "nope"}},
        f"{MEMORY}load guest memory: {MISSING}",
    ),
    (
        "short memory",
        LOAD,
        f"{MEMORY}restore guest memory: Total sum of memory regions exceeds largest possible file "
        "offset",
    ),
    (
        "interface",
        LOAD | {"network_overrides": [{"iface_id": "x", "host_dev_name": "y"}]},
        f"{STATE}Unknown Network Device.",
    ),
    (
        "disk",
        LOAD,
        f"{DEVICES}Block: Virtio backend error: Error manipulating the backing file: {MISSING} "
        "disk",
    ),
    (
        "vsock",
        LOAD,
        f"{DEVICES}VsockUnixBackend: Error binding to the host-side Unix socket: Address in use "
        "(os error 98)",
    ),
]
