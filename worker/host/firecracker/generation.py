"""One generation of a sleep image: its files, and the manifest that says what they must be."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from worker.errors import Broken
from worker.host import files, machine

VMSTATE: Final = "vmstate.bin"
MEMORY: Final = "mem.bin"
SECRETS: Final = "secrets.ext4"
MANIFEST: Final = "manifest.json"
FILES: Final = "files"  # the manifest's part about files: name to size and digest

_LIMIT_BYTES: Final = 1 << 20


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a file must be; no digest if it was too large to read."""

    size_bytes: int
    sha256: str = ""


def take(source: Path, target: Path) -> None:
    """The file is at `target`, root's alone, its bytes durable.

    A jailed VMM wrote it and may have put anything in its place: it is looked at only where the
    VMM cannot reach, and never through a symlink.

    Raises:
        Broken: `bad_snapshot`, it is no file of its own; `io_error`.
    """
    with files.translated(target):
        source.rename(target)
        fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            seen = os.fstat(fd)
            if not stat.S_ISREG(seen.st_mode) or seen.st_nlink != 1:
                raise Broken("bad_snapshot", f"{source} is no regular file of one name")
            os.fchown(fd, 0, 0)
            os.fchmod(fd, 0o600)
            os.fsync(fd)
        finally:
            os.close(fd)


def describe(
    directory: Path, names: Collection[str], *, undigested: Collection[str]
) -> dict[str, Entry]:
    """Size and SHA-256 of each file; some are too large to read."""
    described = {}
    for name in names:
        path = directory / name
        digest = "" if name in undigested else machine.sha256(path)
        described[name] = Entry(size_bytes=path.stat().st_size, sha256=digest)
    return described


def write(directory: Path, manifest: Mapping[str, Any]) -> None:
    """The manifest is in the generation, durably, and so is the generation in its directory."""
    files.write(directory / MANIFEST, msgspec.json.encode(manifest))
    files.sync_directory(directory.parent)


def read(directory: Path) -> dict[str, Any] | None:
    """The generation's manifest; None if there is none that can be read."""
    try:
        raw = files.read(directory / MANIFEST, limit_bytes=_LIMIT_BYTES)
        manifest = None if raw is None else msgspec.json.decode(raw, type=dict[str, Any])
        if manifest is not None:
            msgspec.convert(manifest.get(FILES), dict[str, Entry])
    except (ValueError, msgspec.DecodeError):
        return None
    return manifest


def faults(
    directory: Path, manifest: Mapping[str, Any] | None, *, thorough: bool = False
) -> tuple[str, ...]:
    """How the files differ from the manifest: in size, and the vmstate in its digest.

    `thorough` reads every file that has a digest.
    """
    if manifest is None:
        return (f"{MANIFEST} is missing or unreadable",)
    described = msgspec.convert(manifest[FILES], dict[str, Entry])
    return tuple(_faults(directory, described, thorough=thorough))


def _faults(directory: Path, described: Mapping[str, Entry], *, thorough: bool) -> Iterator[str]:
    for name in {VMSTATE, MEMORY} - described.keys():
        yield f"{MANIFEST} does not describe {name}"
    for name, expected in described.items():
        path = directory / name
        try:
            size = path.lstat().st_size
        except FileNotFoundError:
            yield f"{name} is missing"
            continue
        if size != expected.size_bytes:
            yield f"{name} has {size} bytes, not {expected.size_bytes}"
        elif (
            expected.sha256
            and (thorough or name == VMSTATE)
            and machine.sha256(path) != expected.sha256
        ):
            yield f"{name} has another digest"
