"""System calls that Python 3.11 does not wrap; all raise OSError as `os` does."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_SLAVE = 4096, 16384, 1 << 19
MNT_DETACH = 2
PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 15, 38
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str = "") -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what or None)


def unshare(flags: int) -> None:
    """Moves the process into new namespaces of these kinds."""
    _checked(_libc.unshare(flags))


def setns(path: str, kind: int) -> None:
    """Moves the process into the namespace that the file refers to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, kind))
    finally:
        os.close(descriptor)


def mount(source: str | None, target: str, flags: int) -> None:
    """Makes a bind mount, or changes its propagation."""
    encoded = None if source is None else os.fsencode(source)
    _checked(_libc.mount(encoded, os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def pivot_root(new: str, old: str) -> None:
    """Makes the mount at `new` the root, and puts the former root at `old`."""
    _checked(_libc.syscall(SYS_PIVOT_ROOT, os.fsencode(new), os.fsencode(old)))


def detach(target: str) -> None:
    """Removes the mount from the tree, even if processes use it."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def set_name(name: str) -> None:
    """Sets the thread's name, as in /proc/<pid>/comm; at most 15 bytes."""
    _checked(_libc.prctl(PR_SET_NAME, os.fsencode(name), 0, 0, 0))


def forbid_new_privileges() -> None:
    """Forbids that an execve gains privileges."""
    _checked(_libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
