"""The port of sleep images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from worker.names import InstanceRef
from worker.ports.vmm import ImageFiles


class ImageState(Enum):
    """How far an instance's sleep image has come."""

    NONE = "none"
    PUBLISHED = "published"  # durable and never loaded
    CONSUMED = "consumed"  # loaded once; never again
    DAMAGED = "damaged"  # never told by an adapter (`find` raises), only put on facts


@dataclass(frozen=True, slots=True)
class Image:
    """A published image; `manifest` is what was written when it was made."""

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
        """

    def anything(self, ref: InstanceRef) -> bool:
        """Whether anything that `discard` removes is there."""

    def reserve(self, ref: InstanceRef, size_bytes: int) -> None:
        """There is room for an image of that size.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
        """

    def complete(self, ref: InstanceRef, request_id: str) -> bool:
        """Whether the partial generation of that request is whole and durable."""

    def seal(
        self,
        ref: InstanceRef,
        request_id: str,
        files: ImageFiles,
        secrets: Path | None,
        manifest: Mapping[str, Any],
    ) -> None:
        """Files (moved), secrets (copied) and manifest are in the request's partial generation,
        all of it durable."""

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        """The request's generation is the instance's image, durably."""

    def sync(self, ref: InstanceRef) -> None:
        """What `find` shows is durable: the last thing before a VMM is killed."""

    def consume(self, ref: InstanceRef) -> None:
        """The image is marked as used, durably; it can never be loaded again."""

    def discard(self, ref: InstanceRef) -> None:
        """No image and no partial generation is left, durably."""
