"""Small files, the kernel's among them, with as few system calls as it takes.

Python's own `open` asks in addition what kind of file it has, whether it is a terminal and where it
stands: half a dozen calls a file, and a Start looks into sixty.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 1 << 16


def read(path: Path) -> bytes:
    """All that is in the file.

    Raises:
        OSError: the kernel refused.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = chunk = os.read(fd, _CHUNK_BYTES)
        while chunk:  # a file of the kernel's may give less than there is
            chunk = os.read(fd, _CHUNK_BYTES)
            content += chunk
    finally:
        os.close(fd)
    return content


def text(path: Path) -> str:
    """What the file says, without white space around it.

    Raises:
        OSError: the kernel refused.
    """
    return read(path).decode(errors="surrogateescape").strip()


def write(path: Path, content: bytes) -> None:
    """The file, made if it is missing, has this content: in one call, as the kernel's want it.

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
