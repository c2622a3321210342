"""The API calls that control a guest: boot, pause, resume, snapshot, load, stop."""

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
    """Configures and starts the guest."""
    api.put_all(list(_configuration(spec)))
    api.put("/actions", {"action_type": "InstanceStart"})


def pause(api: Api) -> None:
    """Stops the vCPUs."""
    api.patch("/vm", {"state": "Paused"}, timeout_s=_VCPU_TIMEOUT_S)


def resume(api: Api) -> None:
    """Lets the vCPUs run."""
    api.patch("/vm", {"state": "Resumed"}, timeout_s=_VCPU_TIMEOUT_S)


def ask_to_stop(api: Api) -> None:
    """Presses Ctrl, Alt and Del on the guest's keyboard."""
    api.put("/actions", {"action_type": "SendCtrlAltDel"})


def snapshot(api: Api, spec: VmSpec, output: SnapshotOutput) -> ImageFiles:
    """Two fsynced files of the right size that hold the paused guest; its disks are fsynced, too.

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
        if not drive.shared:  # a guest must wake with the disks that it went to sleep with
            _sync_disk(drive.source)
    return files


def disk_full(jail: Jail) -> bool:
    """Whether the jail's file system is full, as after a snapshot that did not fit.

    The disk is asked, since Firecracker's fault is a text for people.
    """
    seen = os.statvfs(jail.home)
    return seen.f_bavail * seen.f_frsize < _FULL_BYTES


def load(api: Api, *, clock_realtime: bool) -> None:
    """Loads the image's state; the vCPUs do not run yet.

    With `clock_realtime` the guest's clock is set to now; otherwise it continues from the sleep.
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
    # A snapshot contains its limiters: a loaded guest is limited as the booted one was.
    return {} if limiter is None else {field: msgspec.to_builtins(limiter)}


def _sync_disk(path: Path) -> None:
    """Makes the disk and its name durable."""
    for name, kind in ((path, 0), (path.parent, os.O_DIRECTORY)):
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | kind)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
