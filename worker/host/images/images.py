"""Sleep images: made in `partial-<request id>`, renamed to `sleep`, marked when used.

`sleep` is made by a rename, so after a crash it is either a complete generation or missing.  To be
deleted it is first renamed to `withdrawn`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from enqueue.documents import Compression
from worker.errors import Broken, Conflict, Lost
from worker.host.disks.fscrypt import EncryptedDirectory
from worker.host.images import generation, unpack
from worker.host.images.compression import UnreadableError
from worker.host.records.directories import instance_directories
from worker.linux import files as durable
from worker.linux import space, sparse
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import Image, ImageFiles, ImageState

_SLEEP: Final = "sleep"
_WITHDRAWN: Final = "withdrawn"
_PARTIAL: Final = "partial-"
_CONSUMED: Final = "consumed"
_ROOM: Final = "room"
_RESERVE_BYTES: Final = 256 << 20


class DiskImages:
    """Implements `worker.ports.Images` on the filesystem of the state directory.

    `reserve_bytes` are left free beside an image.  With `digest_memory` the manifest has the
    digest of the memory file, too, which takes about a second per GiB.
    """

    def __init__(
        self, layout: Layout, *, reserve_bytes: int = _RESERVE_BYTES, digest_memory: bool = False
    ) -> None:
        self._layout = layout
        self._reserve_bytes = reserve_bytes
        self._digest_memory = digest_memory

    def find(self, ref: InstanceRef) -> Image | None:
        """Compares the sizes, and the digest of the vmstate."""
        directory = self._published(ref)
        if not directory.is_dir():
            return None
        self.encrypted_directory(ref).unlock(directory)
        manifest = generation.read(directory)
        faults = generation.faults(directory, manifest)
        if manifest is None or faults:
            raise _damaged(ref, *faults)
        secrets = directory / generation.SECRETS
        return Image(
            state=ImageState.CONSUMED if self.consumed(ref) else ImageState.PUBLISHED,
            files=ImageFiles(directory / generation.VMSTATE, directory / generation.MEMORY),
            secrets=secrets if generation.SECRETS in manifest["files"] else None,
            manifest=manifest,
        )

    def verify(self, ref: InstanceRef) -> tuple[str, ...]:
        """What is wrong with the image; slow, since every digest of its manifest is checked."""
        directory = self._published(ref)
        return generation.faults(directory, generation.read(directory), thorough=True)

    def has_files(self, ref: InstanceRef) -> bool:
        return bool(self._everything(ref))

    def reserved(self, ref: InstanceRef, request_id: str, size_bytes: int) -> bool:
        try:
            return (self._partial(ref, request_id) / _ROOM).lstat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def reserve(self, ref: InstanceRef, request_id: str, size_bytes: int) -> None:
        directory = self._partial(ref, request_id)
        needed, free = size_bytes + self._reserve_bytes, space.free(directory)
        if free < needed:
            raise space.no_space(directory, needed_bytes=needed, free_bytes=free)
        self._make_private(ref, directory)
        with space.reserving_space(directory, size_bytes), (directory / _ROOM).open("xb") as room:
            sparse.allocate(room.fileno(), size_bytes)

    def release(self, ref: InstanceRef, request_id: str) -> None:
        durable.remove(self._partial(ref, request_id))

    def is_complete(self, ref: InstanceRef, request_id: str) -> bool:
        directory = self._partial(ref, request_id)
        if not directory.is_dir():
            return False
        self.encrypted_directory(ref).unlock(directory)
        manifest = generation.read(directory)
        if manifest is None or manifest.get("request_id") != request_id:
            return False
        return not generation.faults(directory, manifest)

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
        directory = self._partial(ref, request_id)
        if not _holds_room_only(directory):
            self._make_private(ref, directory)
        (directory / _ROOM).unlink(missing_ok=True)
        parts = generation.fill(
            directory, files, secrets, packing=compression, digest_memory=self._digest_memory
        )
        # Last: a generation without a manifest is not complete.
        generation.write(directory, {**manifest, "request_id": request_id, **parts})

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        partial, published = self._partial(ref, request_id), self._published(ref)
        if not self.is_complete(ref, request_id):
            # A killed attempt may have got as far as the exchange.
            if (generation.read(published) or {}).get("request_id") != request_id:
                what = f"request {request_id} has no complete image of {ref}"
                raise Broken("image_incomplete", what)
            durable.remove(partial)
            return
        durable.sync_directory(partial)
        if os.path.lexists(published):
            durable.exchange(partial, published)
            durable.remove(partial)
        else:
            durable.rename(partial, published)

    def sync(self, ref: InstanceRef) -> None:
        """Syncs names and marks; the files were synced before they got their names."""
        directory = self._published(ref)
        if directory.is_dir():
            durable.sync_directory(directory)
            durable.sync_directory(directory.parent)

    def usable(self, ref: InstanceRef) -> bool:
        image = self.find(ref)
        return image is not None and unpack.usable(self._published(ref), image.manifest)

    def make_usable(self, ref: InstanceRef) -> None:
        image = self.find(ref)
        if image is None:
            raise _no_image(ref)
        try:
            unpack.make_usable(self._published(ref), image.manifest)
        except UnreadableError as error:
            raise _damaged(ref, str(error)) from error

    def consumed(self, ref: InstanceRef) -> bool:
        return os.path.lexists(self._published(ref) / _CONSUMED)

    def consume(self, ref: InstanceRef) -> None:
        directory = self._published(ref)
        if not directory.is_dir():
            raise _no_image(ref)
        (directory / _CONSUMED).touch(mode=0o600)
        durable.sync_directory(directory)

    def discard(self, ref: InstanceRef) -> None:
        published = self._published(ref)
        withdrawn = published.with_name(_WITHDRAWN)
        # Synced before its marks are deleted: after a power cut it must never look unused.
        if os.path.lexists(withdrawn):  # by an attempt that may have been killed before it synced
            durable.sync_directory(withdrawn.parent)
            durable.delete(withdrawn)
        if renamed := os.path.lexists(published):
            durable.rename(published, withdrawn)
        for path in self._everything(ref):
            durable.delete(path)
        if not renamed and published.parent.is_dir():
            durable.sync_directory(published.parent)

    def leftovers(self) -> frozenset[InstanceRef]:
        homes = instance_directories(self._layout)
        return frozenset(ref for ref in homes if self._unpublished(ref))

    def tidy(self, ref: InstanceRef) -> None:
        for path in self._unpublished(ref):
            durable.remove(path)

    def encrypted_directory(self, ref: InstanceRef) -> EncryptedDirectory:
        """What encrypts the instance's images."""
        return EncryptedDirectory.of(self._layout, ref.tenant_id)

    def _published(self, ref: InstanceRef) -> Path:
        return self._layout.images(ref) / _SLEEP

    def _partial(self, ref: InstanceRef, request_id: str) -> Path:
        return self._layout.images(ref) / f"{_PARTIAL}{request_id}"

    def _make_private(self, ref: InstanceRef, partial: Path) -> None:
        """Makes an empty directory below one that only root can read: it holds guests' memory."""
        durable.make_directory(partial.parent, mode=0o700)
        partial.parent.chmod(0o700)
        durable.remove(partial)
        durable.make_directory(partial, mode=0o700)
        self.encrypted_directory(ref).encrypt(partial)

    def _unpublished(self, ref: InstanceRef) -> list[Path]:
        return [path for path in self._everything(ref) if path.name != _SLEEP]

    def _everything(self, ref: InstanceRef) -> list[Path]:
        try:
            entries = sorted(self._layout.images(ref).iterdir())
        except FileNotFoundError:
            return []
        ours = (_SLEEP, _WITHDRAWN)
        return [path for path in entries if path.name in ours or path.name.startswith(_PARTIAL)]


def _holds_room_only(directory: Path) -> bool:
    try:
        return [path.name for path in directory.iterdir()] == [_ROOM]
    except FileNotFoundError:
        return False


def _no_image(ref: InstanceRef) -> Conflict:
    return Conflict("no_image", f"{ref} has no sleep image")


def _damaged(ref: InstanceRef, *faults: str) -> Lost:
    return Lost(
        "image_damaged",
        f"the sleep image of {ref} is damaged: {'; '.join(faults)}",
        hint="its memory is gone; start the instance afresh",
    )
