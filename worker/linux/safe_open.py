"""Opens and reads files in directories to which less trusted processes write."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

# Neither follows a symlink nor waits for the writer of a FIFO.
SAFELY: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotRegularFileError(OSError, ValueError):
    """Not a regular file; `errno` is ELOOP for a symlink, EISDIR for a directory."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def opened(path: Path, access: int = os.O_RDONLY) -> Iterator[int | None]:
    """A descriptor of the regular file at `path`, until the block ends; None if nothing
    is there.

    Raises:
        NotRegularFileError: not a regular file.
        OSError: the kernel refused.
    """
    try:
        fd = os.open(path, access | SAFELY)
    except (FileNotFoundError, NotADirectoryError):
        yield None
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotRegularFileError(errno.ELOOP, "it is a symlink") from error
        raise
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise NotRegularFileError(number, "it is not a regular file")
        yield fd
    finally:
        os.close(fd)


def read(path: Path, *, limit_bytes: int) -> bytes | None:
    """The bytes of the regular file at `path`; None if nothing is there.

    Raises:
        ValueError: not a regular file, or larger than the limit.
        OSError: the kernel refused.
    """
    with opened(path) as fd:
        if fd is None:
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError(f"it is larger than {limit_bytes} bytes")
    return content
