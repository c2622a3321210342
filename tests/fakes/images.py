"""Sleep images whose files are real, since a VMM loads them, and whose state is in memory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worker.errors import Broken, Conflict, Lost, Transient
from worker.names import InstanceRef, Layout
from worker.ports import Image, ImageFiles, ImageState


@dataclass
class Generation:
    """What was sealed: the sizes are those of then."""

    request_id: str
    manifest: Mapping[str, Any]
    sizes: dict[Path, int] = field(default_factory=dict)
    consumed: bool = False


class FakeImages:
    """Implements `worker.ports.Images`; `free_bytes` is the room that `reserve` finds."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.free_bytes = 1 << 40
        self.partial: dict[tuple[InstanceRef, str], Generation] = {}
        self.published: dict[InstanceRef, Generation] = {}

    def find(self, ref: InstanceRef) -> Image | None:
        generation = self.published.get(ref)
        if generation is None:
            return None
        directory = self.layout.images(ref) / generation.request_id
        if not _whole(generation):
            raise Lost("image_damaged", f"the sleep image of {ref} is damaged")
        secrets = directory / "secrets"
        return Image(
            state=ImageState.CONSUMED if generation.consumed else ImageState.PUBLISHED,
            files=ImageFiles(directory / "vmstate", directory / "memory"),
            secrets=secrets if secrets in generation.sizes else None,
            manifest=generation.manifest,
        )

    def anything(self, ref: InstanceRef) -> bool:
        return ref in self.published or any(of == ref for of, _ in self.partial)

    def reserve(self, ref: InstanceRef, size_bytes: int) -> None:
        if self.free_bytes < size_bytes:
            raise Transient(
                "no_space",
                f"no room for an image of {ref}",
                needed_bytes=size_bytes,
                free_bytes=self.free_bytes,
            )

    def complete(self, ref: InstanceRef, request_id: str) -> bool:
        generation = self.partial.get((ref, request_id))
        return generation is not None and _whole(generation)

    def seal(
        self,
        ref: InstanceRef,
        request_id: str,
        files: ImageFiles,
        secrets: Path | None,
        manifest: Mapping[str, Any],
    ) -> None:
        directory = self.layout.images(ref) / request_id
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        files.vmstate.rename(directory / "vmstate")
        files.memory.rename(directory / "memory")
        if secrets is not None:
            shutil.copyfile(secrets, directory / "secrets")
        generation = Generation(request_id, {**manifest, "request_id": request_id})
        generation.sizes = {path: path.stat().st_size for path in directory.iterdir()}
        self.partial[ref, request_id] = generation

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        if not self.complete(ref, request_id):
            there = self.published.get(ref)
            if there is not None and there.request_id == request_id:
                return
            raise Broken("image_incomplete", f"request {request_id} has no whole image of {ref}")
        old = self.published.get(ref)
        self.published[ref] = self.partial.pop((ref, request_id))
        if old is not None and old.request_id != request_id:
            shutil.rmtree(self.layout.images(ref) / old.request_id)

    def sync(self, ref: InstanceRef) -> None:
        pass

    def consume(self, ref: InstanceRef) -> None:
        if ref not in self.published:
            raise Conflict("no_image", f"{ref} has no sleep image")
        self.published[ref].consumed = True

    def discard(self, ref: InstanceRef) -> None:
        self.published.pop(ref, None)
        for key in [key for key in self.partial if key[0] == ref]:
            del self.partial[key]
        shutil.rmtree(self.layout.images(ref), ignore_errors=True)


def _whole(generation: Generation) -> bool:
    return all(
        path.exists() and path.stat().st_size == size for path, size in generation.sizes.items()
    )
