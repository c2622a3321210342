"""Sleep images: made in `partial-<request id>`, renamed to `sleep`, marked when used.

The one question that a crash may leave open is what lies at `sleep`: a rename answers it, so
there is either a whole generation or none.  Going away it is first renamed to `withdrawn`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worker.errors import Broken, Conflict, Lost
from worker.host import files as durable
from worker.host import sparse
from worker.host.firecracker import generation
from worker.names import InstanceRef, Layout
from worker.ports import Image, ImageFiles, ImageState

_SLEEP: Final = "sleep"
_WITHDRAWN: Final = "withdrawn"
_PARTIAL: Final = "partial-"
_CONSUMED: Final = "consumed"
_RESERVE_BYTES: Final = 256 << 20


class DiskImages:
    """Implements `worker.ports.Images` on the filesystem of the state directory.

    `reserve_bytes` are left free beside an image.  With `digest_memory` the manifest holds the
    digest of the memory file too, at about a second a GiB.
    """

    def __init__(
        self, layout: Layout, *, reserve_bytes: int = _RESERVE_BYTES, digest_memory: bool = False
    ) -> None:
        self._layout = layout
        self._reserve_bytes = reserve_bytes
        self._digest_memory = digest_memory

    def find(self, ref: InstanceRef) -> Image | None:
        """See `Images.find`.  Sizes are compared, and the digest of the vmstate."""
        directory = self._published(ref)
        if not directory.is_dir():
            return None
        manifest = generation.read(directory)
        faults = generation.faults(directory, manifest)
        if manifest is None or faults:
            raise Lost(
                "image_damaged",
                f"the sleep image of {ref} is damaged: {'; '.join(faults)}",
                hint="its memory is gone; start the instance afresh",
            )
        secrets = directory / generation.SECRETS
        consumed = os.path.lexists(directory / _CONSUMED)
        return Image(
            state=ImageState.CONSUMED if consumed else ImageState.PUBLISHED,
            files=ImageFiles(directory / generation.VMSTATE, directory / generation.MEMORY),
            secrets=secrets if generation.SECRETS in manifest["files"] else None,
            manifest=manifest,
        )

    def verify(self, ref: InstanceRef) -> tuple[str, ...]:
        """What is wrong with the image, every digest of its manifest read again; slow."""
        directory = self._published(ref)
        return generation.faults(directory, generation.read(directory), thorough=True)

    def anything(self, ref: InstanceRef) -> bool:
        """See `Images.anything`."""
        return bool(self._everything(ref))

    def reserve(self, ref: InstanceRef, size_bytes: int) -> None:
        """See `Images.reserve`.  Nothing is held back: sleeps at the same time may both fit."""
        path = self._layout.images(ref)
        above = next(one for one in (path, *path.parents) if one.is_dir())
        seen = os.statvfs(above)
        free = seen.f_bavail * seen.f_frsize
        needed = size_bytes + self._reserve_bytes
        if free < needed:
            raise durable.no_space(path, needed_bytes=needed, free_bytes=free)

    def complete(self, ref: InstanceRef, request_id: str) -> bool:
        """See `Images.complete`."""
        directory = self._partial(ref, request_id)
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
    ) -> None:
        """See `Images.seal`."""
        directory = self._partial(ref, request_id)
        self._make_private(directory)
        generation.take(files.vmstate, directory / generation.VMSTATE)
        generation.take(files.memory, directory / generation.MEMORY)
        names = [generation.VMSTATE, generation.MEMORY]
        if secrets is not None:
            target = directory / generation.SECRETS
            with secrets.open("rb") as reader, durable.built(target, mode=0o600) as fd:
                sparse.copy(reader.fileno(), fd)
            names.append(generation.SECRETS)
        unread = () if self._digest_memory else (generation.MEMORY,)
        described = generation.describe(directory, names, undigested=unread)
        # Last: a generation without a manifest is in the making.
        generation.write(
            directory, {**manifest, "request_id": request_id, generation.FILES: described}
        )

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        """See `Images.publish`.

        Raises:
            Broken: `image_incomplete`, the request has no whole generation.
        """
        partial, published = self._partial(ref, request_id), self._published(ref)
        if not self.complete(ref, request_id):
            # A killed attempt may have got as far as the exchange.
            if (generation.read(published) or {}).get("request_id") != request_id:
                what = f"request {request_id} has no whole image of {ref}"
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
        """See `Images.sync`.  The files were synced before they got their names."""
        directory = self._published(ref)
        if directory.is_dir():
            durable.sync_directory(directory)
            durable.sync_directory(directory.parent)

    def consume(self, ref: InstanceRef) -> None:
        """See `Images.consume`.

        Raises:
            Conflict: `no_image`.
        """
        directory = self._published(ref)
        if not directory.is_dir():
            raise Conflict("no_image", f"{ref} has no sleep image")
        durable.write(directory / _CONSUMED, b"")

    def discard(self, ref: InstanceRef) -> None:
        """See `Images.discard`."""
        published = self._published(ref)
        withdrawn = published.with_name(_WITHDRAWN)
        durable.remove(withdrawn)
        if os.path.lexists(published):
            durable.rename(published, withdrawn)
        for path in self._everything(ref):
            durable.remove(path)

    def _published(self, ref: InstanceRef) -> Path:
        return self._layout.images(ref) / _SLEEP

    def _partial(self, ref: InstanceRef, request_id: str) -> Path:
        return self._layout.images(ref) / f"{_PARTIAL}{request_id}"

    def _make_private(self, partial: Path) -> None:
        """A new empty directory, in one that only root may look into: guests' memory."""
        durable.make_directory(partial.parent, mode=0o700)
        partial.parent.chmod(0o700)
        durable.remove(partial)
        durable.make_directory(partial, mode=0o700)

    def _everything(self, ref: InstanceRef) -> list[Path]:
        try:
            entries = sorted(self._layout.images(ref).iterdir())
        except FileNotFoundError:
            return []
        ours = (_SLEEP, _WITHDRAWN)
        return [path for path in entries if path.name in ours or path.name.startswith(_PARTIAL)]
