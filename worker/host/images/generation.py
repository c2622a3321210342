"""One generation of a sleep image: its files, and the manifest that describes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast, get_args

import msgspec

from enqueue.documents import Compression
from worker.errors import Broken
from worker.host.images import compression
from worker.host.images.compression import Codec
from worker.linux import files, machine, safe_open, sparse
from worker.ports import ImageFiles

VMSTATE: Final = "vmstate.bin"
MEMORY: Final = "mem.bin"
SECRETS: Final = "secrets.ext4"
MANIFEST: Final = "manifest.json"
FILES: Final = "files"  # the manifest's key for the files: name to size and digest
RAW: Final = "memory"  # its key for a compressed memory: what it was before

_LIMIT_BYTES: Final = 1 << 20


class FileDigest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file's size and digest; no digest if it was too large to read."""

    size_bytes: int
    sha256: str = ""
    blocks_sha256: str = ""  # of `sparse.digest`


class Raw(msgspec.Struct, frozen=True, kw_only=True):
    """A compressed memory's codec, and its size and digest before it was compressed."""

    codec: Codec
    size_bytes: int
    sha256: str

    @property
    def packed(self) -> str:
        """The name of the compressed file."""
        return f"{MEMORY}.{self.codec}"


def fill(
    directory: Path,
    snapshot: ImageFiles,
    secrets: Path | None,
    *,
    packing: Compression,
    digest_memory: bool,
) -> dict[str, Any]:
    """Fills the generation durably; returns the manifest's parts about its files.

    Raises:
        Broken: `bad_snapshot`; `io_error`.
        Transient: `no_space`.
    """
    vmstate, memory = directory / VMSTATE, directory / MEMORY
    # Each fsync commits the filesystem's whole journal, so no file is synced until all are
    # written: the first sync then does the work of all.
    _take(snapshot.vmstate, vmstate)
    _take(snapshot.memory, memory)
    described = {VMSTATE: FileDigest(size_bytes=_size(vmstate), sha256=machine.sha256(vmstate))}
    parts: dict[str, Any] = {FILES: described}
    if secrets is not None:
        described[SECRETS] = _copied(secrets, directory / SECRETS)
    if packing == "none":
        digest = machine.sha256(memory) if digest_memory else ""
        described[MEMORY] = FileDigest(size_bytes=_size(memory), sha256=digest)
    else:
        raw = parts[RAW] = _packed(memory, packing)
        described[raw.packed] = FileDigest(size_bytes=_size(directory / raw.packed))
        memory.unlink()
    for name in described:
        files.sync(directory / name)
    return parts


def write(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest durably, and makes the generation durable in its directory."""
    files.write(directory / MANIFEST, msgspec.json.encode(manifest))
    files.sync_directory(directory.parent)


def read(directory: Path) -> dict[str, Any] | None:
    """The generation's manifest; None if there is none that can be read."""
    try:
        found = safe_open.read(directory / MANIFEST, limit_bytes=_LIMIT_BYTES)
        manifest = None if found is None else msgspec.json.decode(found, type=dict[str, Any])
        if manifest is not None:
            msgspec.convert(manifest.get(FILES), dict[str, FileDigest])
            raw(manifest)
    except (ValueError, msgspec.DecodeError):
        return None
    return manifest


def raw(manifest: Mapping[str, Any]) -> Raw | None:
    """The manifest's entry about a compressed memory; None if it was not compressed."""
    return msgspec.convert(manifest[RAW], Raw) if RAW in manifest else None


def entries(manifest: Mapping[str, Any]) -> dict[str, FileDigest]:
    """Size and digest of each file, by its name."""
    return msgspec.convert(manifest[FILES], dict[str, FileDigest])


def faults(
    directory: Path, manifest: Mapping[str, Any] | None, *, thorough: bool = False
) -> tuple[str, ...]:
    """The differences between files and manifest: sizes, and the digest of the vmstate.

    `thorough` reads every file that has a digest.
    """
    if manifest is None:
        return (f"{MANIFEST} is missing or unreadable",)
    return tuple(_faults(directory, manifest, thorough=thorough))


def _faults(directory: Path, manifest: Mapping[str, Any], *, thorough: bool) -> Iterator[str]:
    described, packed = entries(manifest), raw(manifest)
    for name in {VMSTATE, packed.packed if packed else MEMORY} - described.keys():
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
        elif (thorough or name == VMSTATE) and not _has_digest(path, expected):
            yield f"{name} has another digest"


def _has_digest(path: Path, expected: FileDigest) -> bool:
    if expected.sha256:
        return machine.sha256(path) == expected.sha256
    if not expected.blocks_sha256:
        return True
    with path.open("rb") as file:
        return sparse.digest(file.fileno()) == expected.blocks_sha256


def _take(source: Path, target: Path) -> None:
    """Moves the file to `target`, for root only.

    A jailed VMM wrote it and may have replaced it: it is checked only where the VMM cannot reach
    it, and never through a symlink.
    """
    with files.translate_errors(target):
        source.rename(target)
        try:
            with safe_open.opened(target) as fd:
                if fd is None or os.fstat(fd).st_nlink != 1:
                    raise _not_one_file(source)
                os.fchown(fd, 0, 0)
                os.fchmod(fd, 0o600)
        except safe_open.NotRegularFileError as error:
            raise _not_one_file(source) from error


def _not_one_file(source: Path) -> Broken:
    return Broken("bad_snapshot", f"{source} is not a regular file with one name")


def _copied(source: Path, target: Path) -> FileDigest:
    with files.translate_errors(target), source.open("rb") as reader, target.open("w+b") as writer:
        target.chmod(0o600)
        sparse.copy(reader.fileno(), writer.fileno())
        digest = sparse.digest(writer.fileno())
    return FileDigest(size_bytes=_size(target), blocks_sha256=digest)


def _packed(memory: Path, packing: Compression) -> Raw:
    assert packing in get_args(Codec)  # noqa: S101  "none" is not a codec
    codec = cast("Codec", packing)
    unnamed = Raw(codec=codec, size_bytes=_size(memory), sha256="")
    target = memory.with_name(unnamed.packed)
    with files.translate_errors(target), memory.open("rb") as reader, target.open("wb") as writer:
        target.chmod(0o600)
        return msgspec.structs.replace(unnamed, sha256=compression.pack(codec, reader, writer))


def _size(path: Path) -> int:
    return path.stat().st_size
