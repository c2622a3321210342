"""Bind mounts of single files, by the system calls: a jail's disks that no hard link can reach."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

from worker.linux import procfs as small_files
from worker.linux.mountinfo import unescaped

# linux/mount.h
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_HARDENED: Final = _NOSUID | _NODEV | _NOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def bind_file(source: Path, target: Path, *, read_only: bool) -> None:
    """The file `source` shows at `target`, which is made.

    Raises:
        OSError: the kernel refused.
    """
    target.touch(mode=0o000)
    _mount(source, target, _BIND)
    # A bind mount takes its flags only from a remount (mount(2)).
    flags = _BIND | _REMOUNT | _HARDENED | (_RDONLY if read_only else 0)
    _mount(None, target, flags)


def below(directory: Path) -> list[Path]:
    """Mount points at or under `directory` in this mount namespace, innermost first."""
    top = os.path.realpath(directory)
    points = [
        unescaped(line.split(" ", 5)[4])
        for line in small_files.text(Path("/proc/self/mountinfo")).splitlines()
    ]
    return [Path(p) for p in reversed(points) if p == top or p.startswith(top + "/")]


def unmount(point: Path) -> None:
    """Nothing is mounted there any more; not being a mount point is success."""
    if _libc.umount2(os.fsencode(point), _DETACH | _UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOENT):
            raise OSError(number, os.strerror(number), str(point))


def _mount(source: Path | None, target: Path, flags: int) -> None:
    origin = None if source is None else os.fsencode(source)
    if _libc.mount(origin, os.fsencode(target), None, ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
