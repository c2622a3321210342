"""How a disk's bytes are put out of reach, and what is said about it.

A container's keyslots go first: without them its data are noise, wherever copies of them are.
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
            held = os.fstat(fd).st_blocks * 512
            line: dict[str, Any] = {"bytes": held, "method": ""}
            if luks_header.has_magic(file):
                line |= _erased(file, fd)
            line["method"] += _discarded(fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    return line


def regular_files(path: Path) -> Iterator[Path]:
    """The file at `path`, or the files below it; symlinks are neither followed nor told."""
    if path.is_symlink() or not path.is_dir():
        candidates = [path]
    else:
        candidates = [Path(top) / name for top, _, names in os.walk(path) for name in names]
    for file in sorted(candidates):
        if os.path.lexists(file) and stat.S_ISREG(file.lstat().st_mode):
            yield file


def _erased(file: Path, fd: int) -> dict[str, Any]:
    """The container's keyslots are overwritten, then all in front of its data, durably."""
    found = luks_header.read_header(file)
    known = luks.erase(file)
    end = found.data_at_bytes if found is not None else _HEADER_AT_MOST_BYTES
    # Before the blocks are let go: a discarded block may keep its bytes on the medium.
    sparse.overwrite(fd, end)
    os.fsync(fd)
    if luks_header.has_magic(file):
        raise Broken("keyslots_left", f"{file} still bears a header after it was overwritten")
    method = "luks_erase+" if known else "luks_overwrite+"
    return {"method": method, "keyslots_left": luks_header.keyslots_left(file)}


def _discarded(fd: int) -> str:
    if sparse.punch(fd):
        return "punch_hole"
    sparse.overwrite(fd)
    return "overwrite"
