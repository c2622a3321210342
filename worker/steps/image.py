"""Steps over an instance's sleep image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import HostdError
from worker.names import InstanceRef
from worker.ports import Host, ImageState, VmmState, VmSpec
from worker.steps.base import IrrevocableError


@dataclass(frozen=True, slots=True)
class RoomForImage:
    """The disk has room for the image.  Looked at, never made."""

    ref: InstanceRef
    size_bytes: int
    name: str = "room_for_image"

    def done(self, host: Host) -> bool:
        host.images.reserve(self.ref, self.size_bytes)
        return True

    def apply(self, host: Host) -> None:
        pass

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class ImageSealed:
    """The paused guest's state, memory, secrets and manifest are whole and durable, aside."""

    spec: VmSpec
    request_id: str
    manifest: Mapping[str, Any]
    with_secrets: bool
    name: str = "image_sealed"

    def done(self, host: Host) -> bool:
        paused = host.vmm.state(self.spec.ref) is VmmState.PAUSED
        return paused and host.images.complete(self.spec.ref, self.request_id)

    def apply(self, host: Host) -> Mapping[str, Any]:
        files = host.vmm.snapshot(self.spec)
        size_bytes = files.vmstate.stat().st_size + files.memory.stat().st_size
        secrets = host.disks.secrets_path(self.spec.ref.instance_id) if self.with_secrets else None
        identity = {
            "firecracker_version": host.vmm.version(),
            "firecracker_sha256": host.vmm.binary_sha256(),
        }
        manifest = {**self.manifest, **identity}
        host.images.seal(self.spec.ref, self.request_id, files, secrets, manifest)
        return {"image_bytes": size_bytes}

    def undo(self, host: Host) -> None:
        host.images.discard(self.spec.ref)


@dataclass(frozen=True, slots=True)
class ImagePublished:
    """The image is in its place, durably.

    Undone by withdrawing it durably: the guest may run again only then, or it would live twice.
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
class ImageConsumed:
    """The image is marked as used, durably, before a vCPU runs: it is never loaded twice."""

    ref: InstanceRef
    name: str = "image_consumed"

    def done(self, host: Host) -> bool:
        image = host.images.find(self.ref)
        return image is not None and image.state is ImageState.CONSUMED

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
        return not host.images.anything(self.ref)

    def apply(self, host: Host) -> None:
        host.images.discard(self.ref)

    def undo(self, host: Host) -> None:
        pass
