"""A tenant's audit.log: a JSON line for each event of an instance.

Its directory belongs to agentd, which may put something else in its place: that is renamed,
never followed.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from worker.linux import files, safe_open

ROTATE_BYTES: Final = 10 * 1024 * 1024
TAIL_BYTES: Final = 64 * 1024
_FLAGS: Final = os.O_RDWR | os.O_APPEND | safe_open.SAFELY

_rotating = threading.Lock()  # executors of one hostd; the tenant's lock keeps out other processes


def mentions(path: Path, word: str) -> bool:
    """Whether one of the latest lines has the word."""
    with files.translate_errors(path):
        fd = _open(path)
        if fd is None:
            return False
        try:
            size = os.fstat(fd).st_size
            return word.encode() in os.pread(fd, TAIL_BYTES, max(0, size - TAIL_BYTES))
        finally:
            os.close(fd)


def append(path: Path, line: bytes) -> None:
    """Appends the line durably; a full log is renamed to `audit.log.1` before.

    Raises:
        Transient: `no_space`.
    """
    with _rotating, files.translate_errors(path):
        fd = _open(path)
        if fd is not None and os.fstat(fd).st_size + len(line) > ROTATE_BYTES:
            os.close(fd)
            path.replace(path.with_name("audit.log.1"))
            fd = None
        if fd is None:
            fd = os.open(path, _FLAGS | os.O_CREAT, 0o640)
        try:
            os.write(fd, (b"" if _ends_complete(fd) else b"\n") + line + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a log and of the one before it, oldest first; one may be incomplete.

    A log that is rotated meanwhile is read once.
    """
    with ExitStack() as opened:
        logs = []
        for one in (path, path.with_name("audit.log.1")):
            with suppress(OSError):
                fd = opened.enter_context(safe_open.opened(one))
                if fd is not None:
                    log = opened.enter_context(os.fdopen(fd, "rb", closefd=False))
                    logs.append((os.fstat(fd).st_ino, log))
        for log in dict(logs[::-1]).values():
            yield from log


def _open(path: Path) -> int | None:
    """The log, open; None without one.  Renames anything else that has its name."""
    try:
        if stat.S_ISREG(path.lstat().st_mode):
            return os.open(path, _FLAGS)
        path.replace(path.with_name("audit.log.bad"))
    except FileNotFoundError:
        pass
    return None


def _ends_complete(fd: int) -> bool:
    """Whether the log ends with a complete line: a kill may have cut the last one."""
    size = os.fstat(fd).st_size
    return size == 0 or os.pread(fd, 1, size - 1) == b"\n"
