"""Erases a disk's bytes, and reports how.

A container's keyslots are erased first: without them its data, and any copies, are noise.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from worker.errors import Broken
from worker.host.disks import luks
from worker.linux import files, luks_header, sparse

# Of a container whose header cannot be read: where data begin by cryptsetup's own defaults.
_HEADER_AT_MOST_BYTES: Final = 16 << 20


def wipe(file: Path) -> dict[str, Any]:
    """Discards the blocks of a regular file; returns its line of the receipt.

    Raises:
        Broken: `keyslots_left`, `cryptsetup`, `io_error`.
    """
    with files.translate_errors(file):
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(fd).st_blocks * 512
            line: dict[str, Any] = {"bytes": size_bytes, "method": ""}
            if luks_header.has_magic(file):
                line |= _erased(file, fd)
            line["method"] += _discarded(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    return line


def regular_files(path: Path) -> Iterator[Path]:
    """The file at `path`, or the files below it; symlinks are skipped."""
    if path.is_symlink() or not path.is_dir():
        candidates = [path]
    else:
        candidates = [Path(top) / name for top, _, names in os.walk(path) for name in names]
    for file in sorted(candidates):
        if os.path.lexists(file) and stat.S_ISREG(file.lstat().st_mode):
            yield file


def _erased(file: Path, fd: int) -> dict[str, Any]:
    """Overwrites the container's keyslots, then all bytes before its data, durably."""
    found = luks_header.read_header(file)
    known = luks.erase(file)
    end = found.data_at_bytes if found is not None else _HEADER_AT_MOST_BYTES
    # Before the blocks are discarded: a discarded block may keep its bytes on the medium.
    sparse.overwrite(fd, end)
    os.fsync(fd)
    if luks_header.has_magic(file):
        raise Broken("keyslots_left", f"{file} still has a header after it was overwritten")
    method = "luks_erase+" if known else "luks_overwrite+"
    return {"method": method, "keyslots_left": luks_header.keyslots_left(file)}


def _discarded(fd: int) -> str:
    if sparse.punch(fd):
        return "punch_hole"
    sparse.overwrite(fd)
    return "overwrite"
