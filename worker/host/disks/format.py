"""An empty ext4 image on its way: formatted by another process, beside its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.disks import ext4
from worker.linux import files
from worker.ports import DiskSpec

MIB: Final = 1 << 20
# What mke2fs writes at the least; a filesystem with less left is full, whatever the tool said.
_LEAST_FREE_BYTES: Final = 1 << 20


class Making:
    """An empty image that another process is formatting, aside.

    Raises:
        Transient: `no_space`.
        Broken: `mke2fs`, `io_error`.
    """

    def __init__(self, spec: DiskSpec) -> None:
        self.spec = spec
        with ExitStack() as building:
            fd = building.enter_context(files.built(spec.path, mode=spec.mode))
            os.ftruncate(fd, spec.size_mib * MIB)
            self._formatting = ext4.Formatting(files.aside(spec.path), spec.label, fd=fd)
            self._building = building.pop_all()

    def finish(self) -> None:
        """It is whole, and has its name."""
        with self._building, full_if_no_room(self.spec.path):
            self._formatting.finish()

    def abandon(self) -> None:
        """Nothing of it is left."""
        with suppress(_AbandonedError), self._building:
            self._formatting.abandon()
            raise _AbandonedError


class _AbandonedError(Exception):
    """Ends the building of a file without giving it its name."""


@contextmanager
def full_if_no_room(path: Path) -> Iterator[None]:
    """mke2fs reports a full filesystem as any other failure: the filesystem itself is asked."""
    try:
        yield
    except Broken as error:
        seen = os.statvfs(path.parent)
        free = seen.f_bavail * seen.f_frsize
        if free >= _LEAST_FREE_BYTES:
            raise
        raise files.no_space(path, free_bytes=free) from error
