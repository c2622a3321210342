"""An instance's disks: ext4 images, built beside their place and renamed into it.

What fills an image is staged beside it too, so the secrets of an image in memory are never on a
disk, not even for the moment that mke2fs reads them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from enqueue.requests import InstanceId
from worker.errors import Broken
from worker.host import ext4, files, sparse
from worker.host.memory_directory import MemoryDirectory
from worker.ports import DiskSpec

_MIB: Final = 1 << 20
# What mke2fs writes at the least; a filesystem with less left is full, whatever the tool said.
_LEAST_FREE_BYTES: Final = 1 << 20


class Ext4Disks:
    """Implements `worker.ports.Disks`.  `runtime` is `[paths] runtime`."""

    def __init__(self, runtime: Path, *, secrets_size_mib: int = 512) -> None:
        self._memory = MemoryDirectory(runtime / "secrets", size_mib=secrets_size_mib)

    def close(self) -> None:
        """Every secrets disk is gone, and the tmpfs made for them unmounted: no guest may run."""
        self._memory.close()

    def label(self, path: Path) -> str | None:
        """See `Disks.label`."""
        found = ext4.superblock(path)
        return None if found is None else found.label

    def holds(self, spec: DiskSpec) -> bool:
        """See `Disks.holds`.  A disk without files is the guest's to fill: any content will do."""
        found = ext4.superblock(spec.path)
        if found is None or (found.label, found.size_bytes) != (spec.label, spec.size_mib * _MIB):
            return False
        return not spec.files or found.uuid == ext4.content_uuid(spec.files)

    def same(self, source: Path, target: Path) -> bool:
        """See `Disks.same`."""
        try:
            with source.open("rb") as one, target.open("rb") as other:
                return sparse.same(one.fileno(), other.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def make(self, spec: DiskSpec) -> None:
        """See `Disks.make`."""
        self._prepare(spec.path)
        with files.built(spec.path, mode=spec.mode) as fd:
            os.ftruncate(fd, spec.size_mib * _MIB)
            new = files.aside(spec.path)
            with _full_if_no_room(spec.path):
                if not spec.files:
                    ext4.make_empty(new, spec.label)
                    return
                with _staged(spec) as directory:
                    uuid = ext4.content_uuid(spec.files)
                    ext4.make_filled(new, spec.label, directory, uuid)

    def secrets_path(self, instance: InstanceId) -> Path:
        """See `Disks.secrets_path`."""
        return self._memory.path / f"{instance}.ext4"

    def copy(self, source: Path, target: Path) -> None:
        """See `Disks.copy`."""
        self._prepare(target)
        with source.open("rb") as reader, files.built(target, mode=0o600) as fd:
            sparse.copy(reader.fileno(), fd)

    def remove(self, path: Path) -> None:
        """See `Disks.remove`.  What a killed attempt left beside it goes too."""
        for leftover in _leftovers(path):
            files.remove(leftover)
        files.remove(path)

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """See `Disks.wipe`.

        `method` says how: `punch_hole` frees the blocks (they are discarded on the device where
        its filesystem is mounted so), `overwrite` writes zeros over them, `none` met no block.
        Neither reaches copies that a copy-on-write filesystem or a device keeps by itself.
        """
        receipt = {"bytes": 0, "files": 0}
        methods = set()
        with files.translated(path):
            for file in _regular_files(path):
                held, method = _discard(file)
                receipt["bytes"] += held
                receipt["files"] += 1
                methods.add(method)
        self.remove(path)
        return {**receipt, "method": "+".join(sorted(methods)) or "none"}

    def exists(self, path: Path) -> bool:
        """See `Disks.exists`.  In memory, what a killed attempt left of a secret counts."""
        paths = [path]
        if path.parent == self._memory.path:
            paths += _leftovers(path)
        return any(os.path.lexists(one) for one in paths)

    def _prepare(self, target: Path) -> None:
        if target.parent == self._memory.path:
            self._memory.ensure()
        else:
            files.make_directory(target.parent, mode=0o700)


def _stage(path: Path) -> Path:
    return path.with_name(f".{path.name}.stage")


def _leftovers(path: Path) -> list[Path]:
    return [files.aside(path), _stage(path)]


@contextmanager
def _staged(spec: DiskSpec) -> Iterator[Path]:
    """A directory with the disk's files; gone when the block ends."""
    directory = _stage(spec.path)
    files.remove(directory)
    directory.mkdir(mode=0o700)
    try:
        for name, (content, mode) in spec.files.items():
            if name != Path(name).name:
                raise ValueError(f"{name!r} is no name in a root directory")
            (directory / name).write_bytes(content)
            (directory / name).chmod(mode)
        yield directory
    finally:
        files.remove(directory)


@contextmanager
def _full_if_no_room(path: Path) -> Iterator[None]:
    """mke2fs reports a full filesystem as any other failure: the filesystem itself is asked."""
    try:
        yield
    except Broken as error:
        seen = os.statvfs(path.parent)
        free = seen.f_bavail * seen.f_frsize
        if free >= _LEAST_FREE_BYTES:
            raise
        raise files.no_space(path, free_bytes=free) from error


def _regular_files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        candidates = [path]
    else:
        candidates = [Path(top) / name for top, _, names in os.walk(path) for name in names]
    for file in candidates:
        if os.path.lexists(file) and stat.S_ISREG(file.lstat().st_mode):
            yield file


def _discard(file: Path) -> tuple[int, str]:
    """The bytes whose blocks were discarded, and how."""
    fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        held = os.fstat(fd).st_blocks * 512
        method = "punch_hole"
        if not sparse.punch(fd):
            method = "overwrite"
            sparse.overwrite(fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    return held, method
