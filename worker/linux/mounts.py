"""Bind mounts of single files, by the system calls: a jail's disks that no hard link can reach."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final

from worker.linux import libc, procfs

# linux/mount.h
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _REMOUNT, _BIND = 1, 2, 4, 8, 32, 4096
_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_HARDENED: Final = _NOSUID | _NODEV | _NOEXEC


def bind_file(source: Path, target: Path, *, read_only: bool) -> None:
    """Binds the file `source` to `target`, which it makes.

    Raises:
        OSError: the kernel refused.
    """
    target.touch(mode=0o000)
    libc.mount(os.fsencode(source), target, None, _BIND, b"")
    # A bind mount takes its flags only from a remount (mount(2)).
    flags = _BIND | _REMOUNT | _HARDENED | (_RDONLY if read_only else 0)
    libc.mount(None, target, None, flags, b"")


def below(directory: Path) -> list[Path]:
    """Mount points at or under `directory` in this mount namespace, innermost first."""
    top = os.path.realpath(directory)
    points = [
        unescaped(line.split(" ", 5)[4])
        for line in procfs.text(Path("/proc/self/mountinfo")).splitlines()
    ]
    return [Path(p) for p in reversed(points) if p == top or p.startswith(top + "/")]


def unmount(point: Path) -> None:
    """Unmounts `point`; succeeds if nothing is mounted there."""
    try:
        libc.call("umount2", os.fsencode(point), _DETACH | _UMOUNT_NOFOLLOW, path=point)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def unescaped(field: str) -> str:
    """The path that a field of /proc/<pid>/mountinfo names."""
    if "\\" not in field:
        return field
    # The kernel writes blank, tab, newline and backslash as three octal digits (proc(5)).
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
