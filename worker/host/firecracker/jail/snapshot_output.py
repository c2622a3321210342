"""Moves a snapshot's files out of a jail, out of reach of the VMM that wrote them.

The jail's root directory belongs to the VMM's uid: a subverted VMM may replace any file or
directory in it by a symlink or a hard link.  So its files are moved, by directory descriptors,
into a directory of root's beside the jail's root, and checked only there.

Disk space is reserved beforehand: Firecracker writes into a memory file that has the guest's size
without truncating it first (snapshot_memory_to_file in src/vmm/src/vstate/vm.rs), so its blocks
are allocated while the guest still runs.  It does truncate the vmstate file: for that a
placeholder is kept until the snapshot is requested.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.disks.fscrypt import EncryptedDirectory
from worker.host.firecracker.jail.jail import Jail
from worker.linux import safe_open, space, sparse
from worker.linux.writeback import writing_back

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | safe_open.SAFELY
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MEMORY: Final = "memory"
_ROOM: Final = "room"
_VMSTATE_ROOM_BYTES: Final = 16 << 20


class SnapshotOutput:
    """Collects what a VMM of this uid writes to its jail's `snapshot/`.

    `encryption` encrypts the directories that hold the guest's memory, if the tenant has a key.
    """

    def __init__(self, jail: Jail, uid: int, encryption: EncryptedDirectory | None = None) -> None:
        self._jail = jail
        self._uid = uid
        self._encryption = encryption
        self._target = jail.home / "taken"

    def room_reserved(self, memory_bytes: int) -> bool:
        """Whether space for a memory of that size is reserved, and no other file exists."""
        try:
            with self._source() as source:
                seen = os.stat(_MEMORY, dir_fd=source, follow_symlinks=False)
                alone = os.listdir(source) == [_MEMORY]  # noqa: PTH208  by its descriptor
        except (FileNotFoundError, NotADirectoryError):
            return False
        whole = stat.S_ISREG(seen.st_mode) and seen.st_size == memory_bytes
        return alone and whole and os.path.lexists(self._target / _ROOM)

    def reserve(self, memory_bytes: int) -> None:
        """Reserves space for a new snapshot; removes the files of an earlier one.

        Raises:
            Transient: `no_space`.
            Conflict: `storage_not_encrypted`.
        """
        self.reset()
        with self._source() as source, space.reserving_space(self._jail.home, memory_bytes):
            fd = os.open(_MEMORY, _NEW, 0o600, dir_fd=source)
            try:
                sparse.allocate(fd, memory_bytes)
                os.fchown(fd, self._uid, self._uid)
            finally:
                os.close(fd)
        with space.reserving_space(self._jail.home, _VMSTATE_ROOM_BYTES):
            fd = os.open(self._target / _ROOM, _NEW, 0o600)
            try:
                sparse.allocate(fd, _VMSTATE_ROOM_BYTES)
            finally:
                os.close(fd)

    def consume_reservation(self) -> None:
        """Gives the reserved space to the snapshot that comes next."""
        (self._target / _ROOM).unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing_back(self) -> Iterator[None]:
        """While inside, the memory that the VMM writes goes to the disk at once."""
        with self._source() as source:
            fd = os.open(_MEMORY, _FILE, dir_fd=source)
        try:
            with writing_back(fd):
                yield
        finally:
            os.close(fd)

    def reset(self) -> None:
        """Makes the directories, empty; removes the files of an earlier snapshot."""
        self.release()
        with _directory(self._jail.root) as root:
            os.mkdir("snapshot", 0o700, dir_fd=root)
            self._encrypt(self._jail.root / "snapshot")
            os.chown("snapshot", self._uid, self._uid, dir_fd=root, follow_symlinks=False)
        self._target.mkdir(mode=0o700)
        self._encrypt(self._target)

    def release(self) -> None:
        """Frees the reserved space and removes all files of a snapshot."""
        shutil.rmtree(self._target, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError), _directory(self._jail.root) as root:
            shutil.rmtree("snapshot", dir_fd=root, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink("snapshot", dir_fd=root)

    def collect(self, name: str, size_bytes: int | None = None) -> Path:
        """The moved file, its content durable, of that size (None: not empty).

        Raises:
            Broken: `snapshot_incomplete`.
        """
        target = self._target / name
        try:
            with self._source() as source:
                os.rename(name, target, src_dir_fd=source)
            fd = os.open(target, _FILE)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise  # an error of the disk, not of what the VMM wrote
            raise _incomplete(name, str(error)) from error
        try:
            self._check(name, os.fstat(fd), size_bytes)
            os.fdatasync(fd)  # the bytes only: the image that keeps the file syncs name and owner
        finally:
            os.close(fd)
        return target

    @contextlib.contextmanager
    def _source(self) -> Iterator[int]:
        with _directory(self._jail.root) as root, _directory("snapshot", root) as source:
            yield source

    def _encrypt(self, directory: Path) -> None:
        if self._encryption is not None:
            self._encryption.encrypt(directory)

    def _check(self, name: str, seen: os.stat_result, size_bytes: int | None) -> None:
        plain = stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_uid == self._uid
        if not plain:
            raise _incomplete(name, "it is not a file that this VMM made")
        if seen.st_size == 0 or size_bytes not in (None, seen.st_size):
            raise _incomplete(name, f"{seen.st_size} bytes, expected {size_bytes or 'some'}")


@contextlib.contextmanager
def _directory(path: Path | str, parent: int | None = None) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _incomplete(name: str, what: str) -> Broken:
    return Broken(
        "snapshot_incomplete",
        f"Firecracker reported success, but its {name} is wrong: {what}",
        hint="the guest is still paused and intact; look at the disk",
    )
