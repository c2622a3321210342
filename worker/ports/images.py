"""The port of sleep images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from enqueue.documents import Compression
from worker.model.names import InstanceRef
from worker.ports.vmm import ImageFiles


class ImageState(Enum):
    """How far an instance's sleep image has come."""

    NONE = "none"
    PUBLISHED = "published"  # durable and never loaded
    CONSUMED = "consumed"  # loaded once; never again
    DAMAGED = "damaged"  # never told by an adapter (`find` raises), only put on facts


@dataclass(frozen=True, slots=True)
class Image:
    """A published image; `manifest` is what was written when it was made.

    The memory is not there before `make_usable`, if it was compressed.
    """

    state: ImageState
    files: ImageFiles
    secrets: Path | None
    manifest: Mapping[str, Any]


class Images(Protocol):
    """Sleep images in two phases: made in a partial generation, then renamed into place."""

    def find(self, ref: InstanceRef) -> Image | None:
        """The published or consumed image; None if there is none, or only a partial one.

        Raises:
            Lost: `image_damaged`, there is one, but its sizes, or the bytes of its vmstate, are
                not those of its manifest.
            Conflict: `storage_locked`, it is encrypted, and the tenant's key is not there.
        """

    def has_files(self, ref: InstanceRef) -> bool:
        """Whether anything that `discard` removes is there."""

    def reserved(self, ref: InstanceRef, request_id: str, size_bytes: int) -> bool:
        """Whether the request holds room of that size."""

    def reserve(self, ref: InstanceRef, request_id: str, size_bytes: int) -> None:
        """Room of that size is held for what the request's image has beside the snapshot's files:
        nothing else gets it until `seal` writes there.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
            Conflict: `storage_not_encrypted`, the tenant has a key, and the room cannot be so.
        """

    def release(self, ref: InstanceRef, request_id: str) -> None:
        """Neither room nor a partial generation of the request is left, durably."""

    def is_complete(self, ref: InstanceRef, request_id: str) -> bool:
        """Whether the partial generation of that request is whole and durable."""

    def seal(
        self,
        ref: InstanceRef,
        request_id: str,
        files: ImageFiles,
        secrets: Path | None,
        manifest: Mapping[str, Any],
        *,
        compression: Compression = "none",
    ) -> None:
        """Files (moved), secrets (copied) and manifest are in the request's partial generation,
        all of it durable; the memory compressed, if so wanted.

        Raises:
            Transient: `no_space`.
        """

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        """The request's generation is the instance's image, durably."""

    def sync(self, ref: InstanceRef) -> None:
        """What `find` shows is durable: the last thing before a VMM is killed, and before a guest
        runs whose Wake was killed."""

    def usable(self, ref: InstanceRef) -> bool:
        """Whether the image's memory lies there as a VMM maps it, checked against its digest."""

    def make_usable(self, ref: InstanceRef) -> None:
        """The image's memory is unpacked, if it was compressed, and has the digest that it had when
        it was sealed, if one was taken.

        Raises:
            Lost: `image_damaged`, it is not what it was.
            Transient: `no_space`.
        """

    def consumed(self, ref: InstanceRef) -> bool:
        """Whether there is an image that is marked as used, whole or not."""

    def consume(self, ref: InstanceRef) -> None:
        """The image is marked as used, durably; it can never be loaded again."""

    def leftovers(self) -> frozenset[InstanceRef]:
        """Every instance with a generation in the making, or withdrawn: on record or not."""

    def tidy(self, ref: InstanceRef) -> None:
        """No generation in the making, and none withdrawn, is left, durably; the image stays."""

    def discard(self, ref: InstanceRef) -> None:
        """No image is left, durably, and no part of one; a power cut may bring back what can never
        be taken for an image again."""
