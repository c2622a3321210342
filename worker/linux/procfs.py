"""Reads and writes small files, such as the kernel's, with as few system calls as possible.

Python's `open` also checks the kind of file, whether it is a terminal, and the offset: half a dozen
calls a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 16


def read(path: Path) -> bytes:
    """The content of the file.

    Raises:
        OSError: the kernel refused.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = chunk = os.read(fd, _CHUNK_BYTES)
        while chunk:  # a file of the kernel may return less than it has
            chunk = os.read(fd, _CHUNK_BYTES)
            content += chunk
    finally:
        os.close(fd)
    return content


def text(path: Path) -> str:
    """The text of the file, without white space around it.

    Raises:
        OSError: the kernel refused.
    """
    return read(path).decode(errors="surrogateescape").strip()


def write(path: Path, content: bytes) -> None:
    """Writes the file, which is made if missing, in one call, as the kernel's files need it.

    Raises:
        OSError: the kernel refused.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)
