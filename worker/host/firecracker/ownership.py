"""Whether only root decides what a program does: who may write it, and what it loads.

The jailer runs as root and Firecracker confines a guest, so no other user may change them.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_PT_INTERP: Final = 3  # elf(5)
_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<32xQ14xHH")  # e_phoff, e_phentsize, e_phnum of Elf64_Ehdr


def fault(named: Path, program: Path) -> str | None:
    """Why others than root can change the program, in words; None if they cannot.

    `named` is its path as configured, `program` the same without symlinks.

    Raises:
        OSError: the kernel refused to stat it.
    """
    for directory in dict.fromkeys((*_above(program), *_above(named))):
        seen = directory.stat()
        if seen.st_uid != 0:
            return f"lies in {directory}, which belongs to uid {seen.st_uid}"
        # With the sticky bit only root can move what is root's (unlink(2), EPERM).
        if seen.st_mode & _OTHERS_WRITE and not seen.st_mode & stat.S_ISVTX:
            return f"lies in {directory}, which others than root can write"
    for file in dict.fromkeys((program, named)):
        seen = file.lstat()
        if seen.st_uid != 0:
            return f"belongs to uid {seen.st_uid}"
        if not stat.S_ISLNK(seen.st_mode) and seen.st_mode & _OTHERS_WRITE:
            return "can be written by others than root"
    return None


def interpreter(program: Path) -> str | None:
    """The dynamic loader that the kernel would start the program with; None if it needs none.

    None, too, for a file that is not 64-bit ELF: a script, or one that the kernel will refuse.

    Raises:
        OSError: the kernel refused to read it.
    """
    with program.open("rb") as file:
        for offset, size in _interpreters(file):
            file.seek(offset)
            return file.read(size).rstrip(b"\0").decode(errors="replace")
    return None


def _above(path: Path) -> Iterator[Path]:
    yield from reversed(path.absolute().parents)


def _interpreters(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(offset, size) of each PT_INTERP segment."""
    identity = file.read(16)
    header = file.read(48)
    if not identity.startswith(_ELF64_LITTLE) or len(header) < 48:
        return
    at, entry_bytes, entries = _HEADER.unpack_from(identity + header)
    for number in range(entries):
        file.seek(at + number * entry_bytes)
        entry = file.read(40)
        if len(entry) == 40 and entry[:4] == _PT_INTERP.to_bytes(4, "little"):
            offset, size = struct.unpack_from("<8xQ16xQ", entry)
            yield offset, min(size, os.pathconf("/", "PC_PATH_MAX"))
