"""How a snapshot's files come out of a jail, out of reach of the VMM that wrote them.

The jail's root directory belongs to the VMM's uid: a subverted VMM may put a symlink or a hard
link in the place of any file or directory there.  So its files are moved, by directory
descriptors, into a directory of root's beside the jail's root, and looked at only then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.firecracker.jail import Jail

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Taking:
    """Takes what a VMM of this uid wrote to its jail's `snapshot/`."""

    def __init__(self, jail: Jail, uid: int) -> None:
        self._jail = jail
        self._uid = uid
        self._target = jail.home / "taken"

    def clear(self) -> None:
        """Nothing is left of an earlier snapshot: Firecracker would write into it."""
        with _directory(self._jail.root) as root:
            shutil.rmtree("snapshot", dir_fd=root, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                os.unlink("snapshot", dir_fd=root)
            os.mkdir("snapshot", 0o700, dir_fd=root)
            os.chown("snapshot", self._uid, self._uid, dir_fd=root, follow_symlinks=False)
        shutil.rmtree(self._target, ignore_errors=True)
        self._target.mkdir(mode=0o700)

    def taken(self, name: str, size_bytes: int | None = None) -> Path:
        """The file, moved, durable in content, and of that size (None: not empty).

        Raises:
            Broken: `snapshot_incomplete`.
        """
        target = self._target / name
        try:
            with _directory(self._jail.root) as root, _directory("snapshot", root) as source:
                os.rename(name, target, src_dir_fd=source)
            fd = os.open(target, _FILE)
        except OSError as error:
            raise _incomplete(name, str(error)) from error
        try:
            self._check(name, os.fstat(fd), size_bytes)
            os.fsync(fd)
        finally:
            os.close(fd)
        return target

    def _check(self, name: str, seen: os.stat_result, size_bytes: int | None) -> None:
        plain = stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1 and seen.st_uid == self._uid
        if not plain:
            raise _incomplete(name, "it is no file that this VMM made")
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
        hint="the guest is still paused and whole; look at the disk",
    )
