"""Sleep images whose files are real, since a VMM loads them, and whose state is in memory."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enqueue.documents import Compression
from worker.errors import Broken, Conflict, Lost, Transient
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import Image, ImageFiles, ImageState


@dataclass
class Generation:
    """What was sealed: the sizes are those of then."""

    request_id: str
    manifest: Mapping[str, Any]
    sizes: dict[Path, int] = field(default_factory=dict)
    consumed: bool = False
    packed: bytes | None = None


class FakeImages:
    """Implements `worker.ports.Images`; `free_bytes` is the room that `reserve` finds."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.free_bytes = 1 << 40
        self.partial: dict[tuple[InstanceRef, str], Generation] = {}
        self.rooms: dict[tuple[InstanceRef, str], int] = {}
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

    def has_files(self, ref: InstanceRef) -> bool:
        unfinished = (*self.partial, *self.rooms)
        return ref in self.published or any(of == ref for of, _ in unfinished)

    def reserved(self, ref: InstanceRef, request_id: str, size_bytes: int) -> bool:
        return self.rooms.get((ref, request_id)) == size_bytes

    def reserve(self, ref: InstanceRef, request_id: str, size_bytes: int) -> None:
        if self.free_bytes < size_bytes:
            raise Transient(
                "no_space",
                f"no room for an image of {ref}",
                needed_bytes=size_bytes,
                free_bytes=self.free_bytes,
            )
        self.partial.pop((ref, request_id), None)
        self.rooms[ref, request_id] = size_bytes

    def release(self, ref: InstanceRef, request_id: str) -> None:
        self.partial.pop((ref, request_id), None)
        self.rooms.pop((ref, request_id), None)

    def is_complete(self, ref: InstanceRef, request_id: str) -> bool:
        generation = self.partial.get((ref, request_id))
        return generation is not None and _whole(generation)

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
        self.rooms.pop((ref, request_id), None)
        directory = self.layout.images(ref) / request_id
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        files.vmstate.rename(directory / "vmstate")
        files.memory.rename(directory / "memory")
        if secrets is not None:
            shutil.copyfile(secrets, directory / "secrets")
        generation = Generation(request_id, {**manifest, "request_id": request_id})
        memory = directory / "memory"
        if compression != "none":
            generation.packed = zlib.compress(memory.read_bytes())
            memory.unlink()
        generation.sizes = {path: path.stat().st_size for path in directory.iterdir()}
        self.partial[ref, request_id] = generation

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        if not self.is_complete(ref, request_id):
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

    def usable(self, ref: InstanceRef) -> bool:
        return (self.layout.images(ref) / self.published[ref].request_id / "memory").exists()

    def make_usable(self, ref: InstanceRef) -> None:
        generation = self.published[ref]
        if generation.packed is None:
            return
        try:
            memory = zlib.decompress(generation.packed)
        except zlib.error as error:
            raise Lost("image_damaged", f"the sleep image of {ref} is damaged") from error
        (self.layout.images(ref) / generation.request_id / "memory").write_bytes(memory)

    def consumed(self, ref: InstanceRef) -> bool:
        return ref in self.published and self.published[ref].consumed

    def consume(self, ref: InstanceRef) -> None:
        if ref not in self.published:
            raise Conflict("no_image", f"{ref} has no sleep image")
        self.published[ref].consumed = True

    def leftovers(self) -> frozenset[InstanceRef]:
        return frozenset(ref for ref, _ in (*self.partial, *self.rooms))

    def tidy(self, ref: InstanceRef) -> None:
        for of, request_id in (*self.partial, *self.rooms):
            if of == ref:
                self.release(ref, request_id)

    def discard(self, ref: InstanceRef) -> None:
        self.published.pop(ref, None)
        for unfinished in (self.partial, self.rooms):
            for key in [key for key in unfinished if key[0] == ref]:
                del unfinished[key]
        shutil.rmtree(self.layout.images(ref), ignore_errors=True)


def _whole(generation: Generation) -> bool:
    return all(
        path.exists() and path.stat().st_size == size for path, size in generation.sizes.items()
    )
