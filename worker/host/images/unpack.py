"""Makes a published image's memory a file that a VMM can map: unpacks it and checks its digest.

A check reads all of the memory, so its success is recorded beside it, for this boot and this file;
the next check is free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from worker.host.images import compression, generation
from worker.host.images.compression import UnreadableError
from worker.host.images.generation import MEMORY, Raw
from worker.linux import files, machine, safe_open

_CHECKED: Final = "checked.json"
_LIMIT_BYTES: Final = 4096


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Which file was checked, and in which boot: the next may lack what was not synced."""

    inode: int
    size_bytes: int
    mtime_ns: int
    boot_id: str


def usable(directory: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the memory exists and was checked, if it has a digest."""
    if generation.raw(manifest) is None and not generation.entries(manifest)[MEMORY].sha256:
        return True
    try:
        noted = safe_open.read(directory / _CHECKED, limit_bytes=_LIMIT_BYTES) or b""
        return msgspec.json.decode(noted, type=Seen) == _seen(directory / MEMORY)
    except (FileNotFoundError, ValueError):
        return False


def make_usable(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Unpacks the memory, if it is compressed, and checks it, if it has a digest.

    Raises:
        UnreadableError: it is not the memory that was sealed.
        Transient: `no_space`.
    """
    raw = generation.raw(manifest)
    if raw is None:
        digest = generation.entries(manifest)[MEMORY].sha256
        if digest and machine.sha256(directory / MEMORY) != digest:
            raise UnreadableError(f"{MEMORY} has another digest")
    else:
        _unpack(directory, raw)
    files.write(directory / _CHECKED, msgspec.json.encode(_seen(directory / MEMORY)))


def _unpack(directory: Path, raw: Raw) -> None:
    """Does not sync: the compressed file stays, and a power cut voids the record of the check."""
    target = directory / MEMORY
    new = files.aside(target)
    with files.translate_errors(target):
        new.unlink(missing_ok=True)
        try:
            with (directory / raw.packed).open("rb") as source, new.open("xb") as file:
                new.chmod(0o600)
                digest = compression.unpack(raw.codec, source, file, raw.size_bytes)
            _compare(digest, raw)
            new.rename(target)
        except Exception:
            new.unlink(missing_ok=True)
            raise


def _compare(digest: str, raw: Raw) -> None:
    if digest != raw.sha256:
        raise UnreadableError(f"{raw.packed} holds a memory of another digest")


def _seen(path: Path) -> Seen:
    found = os.lstat(path)
    return Seen(
        inode=found.st_ino,
        size_bytes=found.st_size,
        mtime_ns=found.st_mtime_ns,
        boot_id=machine.boot_id(),
    )
