"""Steps for an instance's sleep image."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from enqueue.documents import Compression
from worker.errors import HostdError
from worker.model.names import InstanceRef
from worker.ports import Drive, Host, ImageState, VmmState, VmSpec
from worker.steps.step import IrrevocableError


@dataclass(frozen=True, slots=True)
class RoomForImage:
    """Disk space is reserved for the snapshot, and `beside_bytes` for the rest of the image."""

    spec: VmSpec
    request_id: str
    beside_bytes: int
    name: str = "room_for_image"

    def done(self, host: Host) -> bool:
        beside = host.images.reserved(self.spec.ref, self.request_id, self.beside_bytes)
        return beside and host.vmm.snapshot_reserved(self.spec)

    def apply(self, host: Host) -> None:
        host.vmm.reserve_snapshot(self.spec)
        host.images.reserve(self.spec.ref, self.request_id, self.beside_bytes)

    def undo(self, host: Host) -> None:
        try:
            host.vmm.release_snapshot(self.spec.ref)
        finally:
            host.images.release(self.spec.ref, self.request_id)


@dataclass(frozen=True, slots=True)
class ImageSealed:
    """The paused guest's state, memory, secrets and manifest are whole and durable, unpublished."""

    spec: VmSpec
    request_id: str
    manifest: Mapping[str, Any]
    with_secrets: bool
    compression: Compression = "none"
    name: str = "image_sealed"

    def done(self, host: Host) -> bool:
        paused = host.vmm.state(self.spec.ref) is VmmState.PAUSED
        return paused and host.images.is_complete(self.spec.ref, self.request_id)

    def apply(self, host: Host) -> Mapping[str, Any]:
        files = host.vmm.snapshot(self.spec)
        size_bytes = files.vmstate.stat().st_size + files.memory.stat().st_size
        secrets = host.disks.secrets_path(self.spec.ref.instance_id) if self.with_secrets else None
        manifest = {
            **self.manifest,
            **asdict(host.vmm.platform()),
            "drives": [_described(drive) for drive in self.spec.drives],
            "nics": [{"host_dev_name": self.spec.tap, "guest_mac": self.spec.mac}],
        }
        host.images.seal(
            self.spec.ref, self.request_id, files, secrets, manifest, compression=self.compression
        )
        return {"image_bytes": size_bytes}

    def undo(self, host: Host) -> None:
        host.images.discard(self.spec.ref)


@dataclass(frozen=True, slots=True)
class ImagePublished:
    """The image is published, durably.

    Undo removes it durably before the guest runs again: otherwise the guest could exist twice.
    """

    ref: InstanceRef
    request_id: str
    name: str = "image_published"

    def done(self, host: Host) -> bool:
        image = host.images.find(self.ref)
        return image is not None and image.state is ImageState.PUBLISHED

    def apply(self, host: Host) -> None:
        host.images.publish(self.ref, self.request_id)

    def undo(self, host: Host) -> None:
        try:
            host.images.discard(self.ref)
        except (HostdError, OSError) as error:
            raise IrrevocableError from error


@dataclass(frozen=True, slots=True)
class MemoryUnpacked:
    """The image's memory is a file that a VMM can map, and has its digest, if one was taken.

    Never undone: it is removed with the image.
    """

    ref: InstanceRef
    name: str = "memory_unpacked"

    def done(self, host: Host) -> bool:
        return host.images.usable(self.ref)

    def apply(self, host: Host) -> None:
        host.images.make_usable(self.ref)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ImageConsumed:
    """The image is marked as used, durably, before a vCPU runs: it is never loaded twice."""

    ref: InstanceRef
    name: str = "image_consumed"

    def done(self, host: Host) -> bool:
        return host.images.consumed(self.ref)

    def apply(self, host: Host) -> None:
        host.images.consume(self.ref)

    def undo(self, host: Host) -> None:
        image = host.images.find(self.ref)
        if image is None or image.state is not ImageState.PUBLISHED:
            raise IrrevocableError


@dataclass(frozen=True, slots=True)
class ImageAbsent:
    """No image and no part of one is left."""

    ref: InstanceRef
    name: str = "image_absent"

    def done(self, host: Host) -> bool:
        return not host.images.has_files(self.ref)

    def apply(self, host: Host) -> None:
        host.images.discard(self.ref)

    def undo(self, host: Host) -> None:
        pass


def _described(drive: Drive) -> dict[str, Any]:
    """A drive for the manifest: what the guest had mounted, and from where."""
    with drive.source.open("rb") as disk:
        size_bytes = disk.seek(0, os.SEEK_END)  # a block device has no size of its own in stat(2)
    return {
        "drive_id": drive.id,
        "path_on_host": f"/{drive.id}",
        "source": str(drive.source),
        "size_bytes": size_bytes,
        "read_only": drive.read_only,
    }
