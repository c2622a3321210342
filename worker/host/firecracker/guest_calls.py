"""What is said to a VMM about its guest: boot, pause, resume, snapshot, load, stop."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from enqueue.documents import RateLimiter
from worker.host.firecracker.api.client import Api
from worker.host.firecracker.jail.files import KERNEL, MEMORY, VMSTATE
from worker.host.firecracker.jail.jail import Jail
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput
from worker.ports import ImageFiles, VmSpec

VSOCK: Final = "v.sock"
_NIC: Final = "net1"
# Firecracker itself gives up on its vCPU threads after 30 s.
_VCPU_TIMEOUT_S: Final = 35.0
_FULL_BYTES: Final = 1 << 20
_SLOWEST_DISK_MIB_S: Final = 16


def boot(api: Api, spec: VmSpec) -> None:
    """The guest is configured and started."""
    api.put_all(list(_configuration(spec)))
    api.put("/actions", {"action_type": "InstanceStart"})


def pause(api: Api) -> None:
    """The vCPUs stand still."""
    api.patch("/vm", {"state": "Paused"}, timeout_s=_VCPU_TIMEOUT_S)


def resume(api: Api) -> None:
    """The vCPUs run."""
    api.patch("/vm", {"state": "Resumed"}, timeout_s=_VCPU_TIMEOUT_S)


def ask_to_stop(api: Api) -> None:
    """The guest's keyboard controller saw Ctrl, Alt and Del."""
    api.put("/actions", {"action_type": "SendCtrlAltDel"})


def snapshot(api: Api, spec: VmSpec, output: SnapshotOutput) -> ImageFiles:
    """The paused guest is in two fsynced files of the right size; its disks are fsynced.

    Raises:
        Broken: `snapshot_incomplete`, accepted, but a file is missing or of the wrong size.
    """
    size_bytes = spec.mem_mib << 20
    if not output.room_reserved(size_bytes):
        output.reserve(size_bytes)
    output.consume_reservation()
    request = {
        "snapshot_type": "Full",
        "snapshot_path": "/snapshot/vmstate",
        "mem_file_path": "/snapshot/memory",
    }
    timeout_s = _VCPU_TIMEOUT_S + spec.mem_mib / _SLOWEST_DISK_MIB_S
    with output.writing_back():
        api.put("/snapshot/create", request, timeout_s=timeout_s)
    files = ImageFiles(output.collect("vmstate"), output.collect("memory", size_bytes))
    for drive in spec.drives:
        if not drive.shared:  # what the guest sleeps with must be there when it wakes
            _sync_disk(drive.source)
    return files


def disk_full(jail: Jail) -> bool:
    """Whether the jail's file system has no room left, as after a snapshot that did not fit.

    Looked at on the disk, since Firecracker's fault is worded for people.
    """
    seen = os.statvfs(jail.home)
    return seen.f_bavail * seen.f_frsize < _FULL_BYTES


def load(api: Api, *, clock_realtime: bool) -> None:
    """The image's state is loaded; the vCPUs stand still.

    With `clock_realtime` the guest's clock goes on at now, not at when it was put to sleep.
    """
    request: dict[str, Any] = {
        "snapshot_path": f"/{VMSTATE}",
        "mem_backend": {"backend_type": "File", "backend_path": f"/{MEMORY}"},
        "resume_vm": False,
    }
    if clock_realtime:
        request["clock_realtime"] = True
    api.put("/snapshot/load", request, timeout_s=_VCPU_TIMEOUT_S)


def _configuration(spec: VmSpec) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "/machine-config", {"vcpu_count": spec.vcpus, "mem_size_mib": spec.mem_mib}
    yield "/boot-source", {"kernel_image_path": f"/{KERNEL}", "boot_args": spec.boot_args}
    # The root drive is always vda; the others follow in the order they are given.
    for drive in sorted(spec.drives, key=lambda drive: not drive.root):
        yield (
            f"/drives/{drive.id}",
            {
                "drive_id": drive.id,
                "path_on_host": f"/{drive.id}",
                "is_root_device": drive.root,
                "is_read_only": drive.read_only,
                "cache_type": "Writeback" if drive.durable else "Unsafe",
                **_limited("rate_limiter", drive.limiter),
            },
        )
    nic = {"iface_id": _NIC, "host_dev_name": spec.tap, "guest_mac": spec.mac}
    nic |= _limited("rx_rate_limiter", spec.rx_limiter)
    nic |= _limited("tx_rate_limiter", spec.tx_limiter)
    yield f"/network-interfaces/{_NIC}", nic
    yield "/vsock", {"guest_cid": spec.guest_cid, "uds_path": f"/{VSOCK}"}


def _limited(field: str, limiter: RateLimiter | None) -> dict[str, Any]:
    # A snapshot carries its limiters: what is loaded is limited as what was booted.
    return {} if limiter is None else {field: msgspec.to_builtins(limiter)}


def _sync_disk(path: Path) -> None:
    """The disk is durable, and so is its name."""
    for name, kind in ((path, 0), (path.parent, os.O_DIRECTORY)):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | kind)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
