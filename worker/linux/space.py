"""Room on a filesystem: how much is free, and the error for a full one."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import Transient


def no_space(path: Path, **facts: object) -> Transient:
    """The error for a full filesystem."""
    return Transient(
        "no_space", f"no room for {path}", hint="free space on its filesystem", **facts
    )


@contextmanager
def reserving_space(path: Path, size_bytes: int) -> Iterator[None]:
    """Translates the error of a full filesystem, while that many bytes are allocated at `path`.

    Raises:
        Transient: `no_space`, with the bytes needed and free.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free_bytes = free(path)
        raise no_space(path, needed_bytes=size_bytes, free_bytes=free_bytes) from error


def free(path: Path) -> int:
    """The free bytes on the filesystem of `path`, which need not exist yet."""
    above = next(one for one in (path, *path.parents) if one.is_dir())
    seen = os.statvfs(above)
    return seen.f_bavail * seen.f_frsize
