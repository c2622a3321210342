"""A directory for secrets, whose files are in memory and never on a disk."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from threading import Lock
from typing import Final

from worker.linux import libc, mounts
from worker.linux.files import make_directory

_TMPFS_MAGIC: Final = 0x01021994  # linux/magic.h
_RAMFS_MAGIC: Final = 0x858458F6
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8  # linux/mount.h
_STATFS_BYTES: Final = 256  # more than any struct statfs, which begins with a long f_type


class SecretsTmpfs:
    """The directory at `path`, on a tmpfs: a new one if its parent is on a disk.

    The tmpfs uses at most `size_mib`; it outlives hostd, like guests.
    """

    def __init__(self, path: Path, *, size_mib: int) -> None:
        self.path = path
        self._size_mib = size_mib
        self._lock = Lock()
        self._ready = False

    def ensure(self) -> None:
        """Makes the directory, in memory, with access for root only.

        Raises:
            OSError: the kernel refused the mount.
        """
        with self._lock:
            if self._ready and in_memory(self.path):
                return
            make_directory(self.path, mode=0o700)
            self._mount()
            self.path.chmod(0o700)
            self._ready = True

    def close(self) -> None:
        """Unmounts the tmpfs, whichever process mounted it."""
        with self._lock:
            for point in mounts.below(self.path):
                mounts.unmount(point)
            self._ready = False

    def _mount(self) -> None:
        # Locked against other processes: a second tmpfs would hide the first one's files.
        parent = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(parent, fcntl.LOCK_EX)
            if not in_memory(self.path):
                self._mount_tmpfs()
        finally:
            os.close(parent)

    def _mount_tmpfs(self) -> None:
        options = f"size={self._size_mib}m,mode=0700"
        # `noswap`: a tmpfs may otherwise be swapped out, to a disk (tmpfs(5); Linux 6.4).
        try:
            _mount_tmpfs(self.path, f"{options},noswap")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount_tmpfs(self.path, options)


def in_memory(path: Path) -> bool:
    """Whether `path` is on a tmpfs or ramfs; False if nothing is there."""
    seen = ctypes.create_string_buffer(_STATFS_BYTES)
    try:
        libc.call("statfs", os.fsencode(path), seen, path=path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return ctypes.c_ulong.from_buffer(seen).value in (_TMPFS_MAGIC, _RAMFS_MAGIC)


def _mount_tmpfs(path: Path, options: str) -> None:
    flags = _NOSUID | _NODEV | _NOEXEC
    libc.mount(b"hostd-secrets", path, b"tmpfs", flags, options.encode())
