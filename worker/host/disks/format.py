"""Makes an empty ext4 image aside, formatted by another process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.disks import ext4
from worker.linux import files, space
from worker.ports import DiskSpec

MIB: Final = 1 << 20
# mke2fs writes at least this; a filesystem with less free is full, whatever mke2fs reported.
_LEAST_FREE_BYTES: Final = 1 << 20


class UnfinishedDisk:
    """An empty image that another process formats, aside.

    Raises:
        Transient: `no_space`.
        Broken: `mke2fs`, `io_error`.
    """

    def __init__(self, spec: DiskSpec) -> None:
        self.spec = spec
        with ExitStack() as building:
            fd = building.enter_context(files.built(spec.path, mode=spec.mode))
            os.ftruncate(fd, spec.size_mib * MIB)
            self._mke2fs = ext4.Mke2fs(files.aside(spec.path), spec.label, fd=fd)
            self._building = building.pop_all()

    def finish(self) -> None:
        """Waits until the image is complete, and renames it."""
        with self._building, no_space_if_full(self.spec.path):
            self._mke2fs.finish()

    def abandon(self) -> None:
        """Stops the process and removes the image."""
        with suppress(_AbandonedError), self._building:
            self._mke2fs.abandon()
            raise _AbandonedError


class _AbandonedError(Exception):
    """Ends `files.built` without the rename."""


@contextmanager
def no_space_if_full(path: Path) -> Iterator[None]:
    """Raises `no_space` if mke2fs failed on a full filesystem: it does not report that itself."""
    try:
        yield
    except Broken as error:
        seen = os.statvfs(path.parent)
        free = seen.f_bavail * seen.f_frsize
        if free >= _LEAST_FREE_BYTES:
            raise
        raise space.no_space(path, free_bytes=free) from error
