"""Reads the header of a LUKS2 container without cryptsetup, to check what cryptsetup erased.

Offsets are those of the LUKS2 On-Disk Format Specification, version 1.1.0: two copies of a binary
header of 4096 bytes and its JSON, each with a checksum; then the keyslots, then the data.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from worker.linux import safe_open

_FIRST: Final = b"LUKS\xba\xbe"
_SECOND: Final = b"SKUL\xba\xbe"
_VERSION: Final = 2
_BINARY_BYTES: Final = 4096
_CHECKSUM_AT: Final = 448
_CHECKSUM_BYTES: Final = 64
# Offsets of the second copy: directly behind the first one, whose size is one of these.
_SIZES_BYTES: Final = tuple(1 << power for power in range(14, 23))


class _Segment(msgspec.Struct, frozen=True):
    offset: str
    type: str


class _Json(msgspec.Struct, frozen=True):
    keyslots: dict[str, msgspec.Raw]
    segments: dict[str, _Segment]


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a container; its data begin at `data_at_bytes`."""

    label: str
    uuid: str
    keyslots: int
    data_at_bytes: int


def read_header(path: Path) -> Header | None:
    """The header of the container at `path`, from its first valid copy; None without one."""
    return next((found for _, found in _copies(path) if found is not None), None)


def has_magic(path: Path) -> bool:
    """Whether the file has the magic of a container, valid or not: it may have keyslots."""
    return any(True for _ in _copies(path))


def keyslots_left(path: Path) -> int:
    """The number of keyslots that a valid copy of the header lists; 0 without a valid copy."""
    return max((found.keyslots for _, found in _copies(path) if found is not None), default=0)


def _copies(path: Path) -> Iterator[tuple[int, Header | None]]:
    """The offset of each magic that was found, and the header there if its checksum is right."""
    try:
        with safe_open.opened(path) as fd:
            if fd is None:
                return
            for at in (0, *_SIZES_BYTES):
                if os.pread(fd, len(_FIRST), at) == (_SECOND if at else _FIRST):
                    yield at, _parsed(fd, at)
    except safe_open.NotRegularFileError as error:
        if error.errno != errno.EISDIR:
            raise


def _parsed(fd: int, at: int) -> Header | None:
    binary = os.pread(fd, _BINARY_BYTES, at)
    if len(binary) < _BINARY_BYTES:
        return None
    version, size_bytes = struct.unpack_from(">HQ", binary, 6)
    (own_at,) = struct.unpack_from(">Q", binary, 256)
    if version != _VERSION or size_bytes not in _SIZES_BYTES or own_at != at:
        return None
    header = bytearray(binary + os.pread(fd, size_bytes - _BINARY_BYTES, at + _BINARY_BYTES))
    checksum = bytes(header[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_BYTES])
    header[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_BYTES] = bytes(_CHECKSUM_BYTES)
    if _text(binary, 72, 32) != "sha256" or checksum[:32] != hashlib.sha256(header).digest():
        return None
    return _header(binary, bytes(header[_BINARY_BYTES:]))


def _header(binary: bytes, json: bytes) -> Header | None:
    try:
        parsed = msgspec.json.decode(json.split(b"\0")[0], type=_Json)
        starts = [int(one.offset) for one in parsed.segments.values() if one.type == "crypt"]
    except (msgspec.DecodeError, ValueError):
        return None
    if not starts:
        return None
    return Header(_text(binary, 24, 48), _text(binary, 168, 40), len(parsed.keyslots), min(starts))


def _text(binary: bytes, at: int, length: int) -> str:
    return binary[at : at + length].split(b"\0")[0].decode(errors="replace")
