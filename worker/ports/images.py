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
    """The state of an instance's sleep image."""

    NONE = "none"
    PUBLISHED = "published"  # durable and never loaded
    CONSUMED = "consumed"  # loaded once; never again
    DAMAGED = "damaged"  # only facts have it, no adapter returns it (`find` raises)


@dataclass(frozen=True, slots=True)
class Image:
    """A published image, with the manifest that was written when it was made.

    A compressed memory exists as a file only after `make_usable`.
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
            Lost: `image_damaged`, its sizes or the digest of its vmstate are not those of its
                manifest.
            Conflict: `storage_locked`, it is encrypted and the tenant's key is missing.
        """

    def has_files(self, ref: InstanceRef) -> bool:
        """Whether anything exists that `discard` removes."""

    def reserved(self, ref: InstanceRef, request_id: str, size_bytes: int) -> bool:
        """Whether that much disk space is reserved for the request."""

    def reserve(self, ref: InstanceRef, request_id: str, size_bytes: int) -> None:
        """Reserves disk space for what the request's image holds beside the snapshot's files,
        until `seal` writes there.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
            Conflict: `storage_not_encrypted`, the tenant has a key, but the files cannot be
                encrypted.
        """

    def release(self, ref: InstanceRef, request_id: str) -> None:
        """Durably removes the request's reservation and its partial generation."""

    def is_complete(self, ref: InstanceRef, request_id: str) -> bool:
        """Whether the partial generation of that request is complete and durable."""

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
        all of it durable, the memory compressed by `compression`.

        Raises:
            Transient: `no_space`.
        """

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        """The request's generation is the instance's image, durably.

        Raises:
            Broken: `image_incomplete`, the request has no whole generation.
        """

    def sync(self, ref: InstanceRef) -> None:
        """Makes durable what `find` returns.

        Called last before a VMM is killed, and before a guest runs whose Wake was killed.
        """

    def usable(self, ref: InstanceRef) -> bool:
        """Whether the image's memory is a file that a VMM can map, checked against its digest."""

    def make_usable(self, ref: InstanceRef) -> None:
        """Unpacks the image's memory, if it was compressed, and checks its digest, if it has one.

        Raises:
            Conflict: `no_image`.
            Lost: `image_damaged`, it is not the memory that was sealed.
            Transient: `no_space`.
        """

    def consumed(self, ref: InstanceRef) -> bool:
        """Whether there is an image that is marked as used, complete or not."""

    def consume(self, ref: InstanceRef) -> None:
        """Durably marks the image as used; it can never be loaded again.

        Raises:
            Conflict: `no_image`.
        """

    def leftovers(self) -> frozenset[InstanceRef]:
        """Every instance with a partial or withdrawn generation; it may have no document."""

    def tidy(self, ref: InstanceRef) -> None:
        """Durably removes partial and withdrawn generations; the image stays."""

    def discard(self, ref: InstanceRef) -> None:
        """Durably removes the image and all its parts.

        What a power cut may bring back can never be mistaken for an image.
        """
