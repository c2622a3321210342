"""Writes small read-only ext4 images byte by byte: starting a tool would take longer.

One block group without journal, its blocks in this order: superblock, group descriptor, both
bitmaps, inode table, root, lost+found, then each file in one extent.  Names, offsets and values are
those of the kernel's Documentation/filesystems/ext4.  Equal files give equal bytes, times included.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

BLOCK_BYTES: Final = 4096
MOST_BLOCKS: Final = 8 * BLOCK_BYTES  # what one bitmap has bits for
_INODE_BYTES: Final = 256
_INODES_A_BLOCK: Final = BLOCK_BYTES // _INODE_BYTES
_ROOT, _LOST_FOUND, _FIRST_FILE = 2, 11, 12  # inodes below 11 are the format's own
_BLOCK_BITMAP, _INODE_BITMAP, _INODE_TABLE = 2, 3, 4
_ENTRY: Final = struct.Struct("<IHBB")
_IS_FILE, _IS_DIRECTORY = 1, 2
_FILETYPE_EXTENTS: Final = 0x2 | 0x40
_SPARSE_SUPER_LARGE_FILE: Final = 0x1 | 0x2
_EXTENTS_FLAG: Final = 0x80000

Files = Mapping[str, tuple[bytes, int]]


class NoRoomError(Exception):
    """The files, or their names, do not fit."""


@dataclass(frozen=True, slots=True)
class _Inode:
    """An inode; `start` is the first of its blocks, which are contiguous."""

    number: int
    mode: int
    links: int
    size: int
    start: int

    @property
    def blocks(self) -> int:
        return -(-self.size // BLOCK_BYTES)

    def packed(self) -> bytes:
        extents = struct.pack("<HHHHI", 0xF30A, bool(self.blocks), 4, 0, 0)
        if self.blocks:
            extents += struct.pack("<IHHI", 0, self.blocks, 0, self.start)
        head = struct.pack(
            "<HHI16xHHII4x", self.mode, 0, self.size, 0, self.links, self.blocks * 8, _EXTENTS_FLAG
        )
        return (head + extents.ljust(60, b"\0")).ljust(128, b"\0") + struct.pack("<H", 32)


def write(fd: int, label: str, files: Files, uuid: UUID) -> None:
    """Makes the empty sparse file an ext4 filesystem of its size with these files in its root.

    Raises:
        NoRoomError: it is too small or too large for one block group, or the names are too many.
        ValueError: not a valid name of a file in a root directory.
        OSError: the kernel refused; ENOSPC where there is no room.
    """
    for at, content in _image(os.fstat(fd).st_size, label, files, uuid):
        left = memoryview(content)
        while left:
            written = os.pwrite(fd, left, at)
            left, at = left[written:], at + written


def is_written(fd: int, label: str, files: Files, uuid: UUID) -> bool:
    """Whether the file is, byte by byte, what `write` makes of one of its size.

    Raises:
        NoRoomError, ValueError, OSError: as `write`.
    """
    image = _image(os.fstat(fd).st_size, label, files, uuid)
    return all(os.pread(fd, len(content), at) == content for at, content in image)


def _image(size_bytes: int, label: str, files: Files, uuid: UUID) -> Iterator[tuple[int, bytes]]:
    """The parts of the image that are not zeros: (offset, bytes), the superblock last."""
    total = size_bytes // BLOCK_BYTES
    table_blocks = -(-(_FIRST_FILE - 1 + len(files)) // _INODES_A_BLOCK)
    root_at = _INODE_TABLE + table_blocks
    inodes = list(_inodes(files, root_at))
    used = root_at + sum(inode.blocks for inode in inodes)
    if not used <= total <= MOST_BLOCKS:
        raise NoRoomError(f"{used} blocks do not fit into one group of {total}")
    count = table_blocks * _INODES_A_BLOCK
    free_inodes = count - (_FIRST_FILE - 1) - len(files)
    lost_found = _directory([(_LOST_FOUND, _IS_DIRECTORY, b"."), (2, 2, b"..")])
    group = struct.pack(
        "<IIIHHH14x", _BLOCK_BITMAP, _INODE_BITMAP, _INODE_TABLE, total - used, free_inodes, 2
    )
    first = bytes(1024) + _superblock(label, uuid, total, total - used, count, free_inodes)
    contents = (content for content, _ in files.values())
    yield from (
        (inode.start * BLOCK_BYTES, c) for inode, c in zip(inodes[2:], contents, strict=True)
    )
    yield inodes[0].start * BLOCK_BYTES, _root(files)
    yield inodes[1].start * BLOCK_BYTES, lost_found
    yield _INODE_TABLE * BLOCK_BYTES, _table(inodes, count)
    yield _INODE_BITMAP * BLOCK_BYTES, _bitmap(_FIRST_FILE - 1 + len(files), count)
    yield _BLOCK_BITMAP * BLOCK_BYTES, _bitmap(used, total)
    yield BLOCK_BYTES, group
    yield 0, first


def _inodes(files: Files, at: int) -> Iterator[_Inode]:
    """Root, lost+found, and a file each, their blocks one after another from `at` on."""
    yield _Inode(_ROOT, stat.S_IFDIR | 0o755, 3, BLOCK_BYTES, at)
    yield _Inode(_LOST_FOUND, stat.S_IFDIR | 0o700, 2, BLOCK_BYTES, at + 1)
    at += 2
    for number, (content, mode) in enumerate(files.values(), _FIRST_FILE):
        inode = _Inode(number, stat.S_IFREG | mode, 1, len(content), at)
        at += inode.blocks
        yield inode


def _root(files: Files) -> bytes:
    entries = [(_ROOT, _IS_DIRECTORY, b"."), (_ROOT, _IS_DIRECTORY, b"..")]
    entries.append((_LOST_FOUND, _IS_DIRECTORY, b"lost+found"))
    for number, name in enumerate(files, _FIRST_FILE):
        if name in ("", ".", "..", "lost+found") or "/" in name:
            raise ValueError(f"{name!r} is not a valid name in a root directory")
        entries.append((number, _IS_FILE, name.encode()))
    return _directory(entries)


def _directory(entries: Sequence[tuple[int, int, bytes]]) -> bytes:
    """One block of entries, the last of which fills the block."""
    block = b""
    for place, (inode, kind, name) in enumerate(entries, 1):
        size = _ENTRY.size + -(-len(name) // 4) * 4
        if place == len(entries):
            size = BLOCK_BYTES - len(block)
        if size < _ENTRY.size + len(name) or len(name) > 255:
            raise NoRoomError("the names do not fit into one block")
        block += (_ENTRY.pack(inode, size, len(name), kind) + name).ljust(size, b"\0")
    return block


def _table(inodes: Sequence[_Inode], count: int) -> bytes:
    table = bytearray(count * _INODE_BYTES)
    for inode in inodes:
        packed, at = inode.packed(), (inode.number - 1) * _INODE_BYTES
        table[at : at + len(packed)] = packed
    return bytes(table)


def _bitmap(used: int, count: int) -> bytes:
    """A block with the first `used` bits set, and those past `count`, which do not exist."""
    bits = (1 << used) - 1 | ((1 << MOST_BLOCKS) - (1 << count))
    return bits.to_bytes(BLOCK_BYTES, "little")


def _superblock(
    label: str, uuid: UUID, blocks: int, free_blocks: int, inodes: int, free_inodes: int
) -> bytes:
    raw = bytearray(1024)
    struct.pack_into(
        "<11I", raw, 0, inodes, blocks, 0, free_blocks, free_inodes, 0, 2, 2,
        MOST_BLOCKS, MOST_BLOCKS, inodes,
    )  # fmt: skip
    # Mounted 0 times of any number, clean, errors are passed over, revision 1.
    struct.pack_into("<HhHHHHIIII", raw, 0x34, 0, -1, 0xEF53, 1, 1, 0, 0, 0, 0, 1)
    struct.pack_into("<IH", raw, 0x54, _LOST_FOUND, _INODE_BYTES)
    struct.pack_into("<III", raw, 0x5C, 0, _FILETYPE_EXTENTS, _SPARSE_SUPER_LARGE_FILE)
    raw[0x68:0x78] = uuid.bytes
    raw[0x78:0x88] = label.encode()[:16].ljust(16, b"\0")
    raw[0xEC:0xFD] = uuid.bytes + b"\x01"  # the seed and kind of directory hashes, unused here
    struct.pack_into("<HH", raw, 0x15C, 32, 32)
    struct.pack_into("<I", raw, 0x160, 1)
    return bytes(raw)
