"""Holes in files: kept when copying, made when wiping."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from typing import Final

from worker.linux import libc

_KEEP_SIZE: Final = 1  # linux/falloc.h
_PUNCH_HOLE: Final = 2
_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 4096

_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS)


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each stretch of the file that is not a hole (lseek(2), SEEK_DATA)."""
    size, at = os.fstat(fd).st_size, 0
    while at < size:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # only a hole is left
                raise
            return
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, end
        at = end


def copy(source: int, target: int) -> None:
    """The empty file `target` has the bytes of `source`, and its holes.

    Raises:
        OSError: the kernel refused; ENOSPC where there is no room.
    """
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in extents(source):
        for at in range(start, end, _CHUNK_BYTES):
            _put(target, os.pread(source, min(_CHUNK_BYTES, end - at), at), at)


def allocate(fd: int, size_bytes: int) -> bool:
    """Gives the file that size and blocks for all of it; False if its filesystem cannot.

    Raises:
        OSError: the kernel refused; ENOSPC where there is no room.
    """
    try:
        libc.call("fallocate", fd, 0, 0, size_bytes)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        os.ftruncate(fd, size_bytes)
        return False
    return True


def digest(fd: int) -> str:
    """SHA-256, in hex, over offset (8 bytes, little-endian) and bytes of each block of 4 KiB that
    is not all zeros.  Holes do not count and take no time."""
    sum_ = hashlib.sha256()
    for at in _blocks(fd):
        block = os.pread(fd, _BLOCK_BYTES, at)
        if block.count(0) != len(block):
            sum_.update(at.to_bytes(8, "little") + block)
    return sum_.hexdigest()


def same(one: int, other: int) -> bool:
    """Whether both files have the same bytes; holes read as zeros."""
    if os.fstat(one).st_size != os.fstat(other).st_size:
        return False
    stretches = (*extents(one), *extents(other))  # what is a hole in both is the same
    return all(_same(one, other, start, end) for start, end in stretches)


def punch(fd: int, *, keep_bytes: int = 0) -> bool:
    """Makes all of the file but its last bytes one hole; its size stays.

    False if its filesystem cannot do that.

    Raises:
        OSError: the kernel refused for another reason.
    """
    size = os.fstat(fd).st_size - keep_bytes
    try:
        if size > 0:
            libc.call("fallocate", fd, _PUNCH_HOLE | _KEEP_SIZE, 0, size)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def overwrite(fd: int, upto: int | None = None) -> None:
    """Overwrites the file, or its first `upto` bytes, with zeros, except for holes."""
    last = os.fstat(fd).st_size if upto is None else upto
    for start, stop in extents(fd):
        end = min(stop, last)
        for at in range(start, end, _CHUNK_BYTES):
            _put(fd, bytes(min(_CHUNK_BYTES, end - at)), at)


def _blocks(fd: int) -> Iterator[int]:
    """Where each block begins that data is in."""
    following = 0
    for start, end in extents(fd):
        first = max(following, start - start % _BLOCK_BYTES)
        yield from range(first, end, _BLOCK_BYTES)
        following = end + -end % _BLOCK_BYTES


def _same(one: int, other: int, start: int, end: int) -> bool:
    for at in range(start, end, _CHUNK_BYTES):
        length = min(_CHUNK_BYTES, end - at)
        if os.pread(one, length, at) != os.pread(other, length, at):
            return False
    return True


def _put(fd: int, content: bytes, at: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(fd, left, at)
        left, at = left[written:], at + written
