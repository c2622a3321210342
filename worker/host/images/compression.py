"""Compresses guest memory as a stream, in constant memory, and computes its digest.

zstandard and lz4 are imported when the first pool needs them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, Literal, Protocol, assert_never

Codec = Literal["zstd", "lz4"]

_CHUNK_BYTES: Final = 1 << 20
_HOLE_BYTES: Final = 64 << 10
_ZEROS: Final = bytes(_HOLE_BYTES)
# hostd may put as many guests to sleep at once as it has threads, and the others need cores, too.
_THREADS: Final = 4
_ZSTD_LEVEL: Final = 1


class UnreadableError(Exception):
    """The compressed memory cannot be restored."""


class Writer(Protocol):
    """What the codecs write to."""

    def write(self, data: bytes, /) -> int: ...


class Reader(Protocol):
    """What the codecs read from; empty bytes at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


def pack(codec: Codec, source: BinaryIO, target: BinaryIO) -> str:
    """Compresses `source` into `target`; returns the SHA-256 of `source`, in hex.

    Raises:
        OSError: the kernel refused; ENOSPC if the disk is full.
    """
    digest = hashlib.sha256()
    with _writer(codec, target) as writer:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def unpack(codec: Codec, source: BinaryIO, target: BinaryIO, size_bytes: int) -> str:
    """Decompresses `source` into the empty file `target`; returns the content's SHA-256, in hex.

    Runs of zeros become holes.  No more than `size_bytes` are written.

    Raises:
        UnreadableError: damaged, or of another size.
        OSError: the kernel refused; ENOSPC if the disk is full.
    """
    digest, at = hashlib.sha256(), 0
    target.truncate(size_bytes)
    for chunk in _chunks(codec, source):
        if at + len(chunk) > size_bytes:
            raise UnreadableError(f"it holds more than {size_bytes} bytes")
        digest.update(chunk)
        _put(target.fileno(), chunk, at)
        at += len(chunk)
    if at != size_bytes:
        raise UnreadableError(f"it holds {at} bytes, not {size_bytes}")
    return digest.hexdigest()


@contextmanager
def _writer(codec: Codec, target: BinaryIO) -> Iterator[Writer]:
    match codec:
        case "zstd":
            import zstandard

            threads = min(_THREADS, os.cpu_count() or 1)
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=threads)
            with compressor.stream_writer(target, closefd=False) as writer:
                yield writer
        case "lz4":
            import lz4.frame

            with lz4.frame.LZ4FrameFile(target, mode="wb") as file:
                yield file
        case _:
            assert_never(codec)


def _chunks(codec: Codec, source: BinaryIO) -> Iterator[bytes]:
    match codec:
        case "zstd":
            import zstandard

            reader: Reader = zstandard.ZstdDecompressor().stream_reader(source, closefd=False)
            yield from _read(reader, zstandard.ZstdError)
        case "lz4":
            import lz4.frame

            with lz4.frame.LZ4FrameFile(source, mode="rb") as file:
                yield from _read(file, RuntimeError)
        case _:
            assert_never(codec)


def _read(reader: Reader, damaged: type[Exception]) -> Iterator[bytes]:
    while True:
        try:
            chunk = reader.read(_CHUNK_BYTES)
        except (damaged, EOFError) as error:
            raise UnreadableError(str(error)) from error
        if not chunk:
            return
        yield chunk


def _put(fd: int, chunk: bytes, at: int) -> None:
    """Writes all but the zeros."""
    view = memoryview(chunk)
    for start in range(0, len(view), _HOLE_BYTES):
        left, to = view[start : start + _HOLE_BYTES], at + start
        if left == _ZEROS[: len(left)]:
            continue
        while left:
            written = os.pwrite(fd, left, to)
            left, to = left[written:], to + written
