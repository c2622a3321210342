"""Wraps the calls by which hostd's code changes the machine, so that a fuse counts them.

These are the lowest that Python code has: functions of `os` (pathlib, shutil and tempfile use
them), files opened for writing, sockets, `fcntl.ioctl`, libc by ctypes, libnftables, new processes
and the ledger's commit.  `test_trace` proves that no change bypasses them.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import signal
import socket
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.crash.process import wire
from tests.crash.process.fuse import Fuse
from worker.ledger.database import Database
from worker.linux import libc
from worker.linux.libnftables import Libnftables

OS: Final = [
    "write",
    "pwrite",
    "writev",
    "pwritev",
    "fsync",
    "fdatasync",
    "sync",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "mkdir",
    "link",
    "symlink",
    "mknod",
    "mkfifo",
    "chmod",
    "fchmod",
    "chown",
    "fchown",
    "lchown",
    "truncate",
    "ftruncate",
    "posix_fallocate",
    "sendfile",
    "copy_file_range",
    "splice",
    "utime",
    "setxattr",
    "removexattr",
    "kill",
    "killpg",
]
LIBC: Final = ["mount", "umount2", "renameat2", "fallocate", "unshare", "setns"]
CREATING: Final = os.O_CREAT | os.O_TRUNC
_KVM_CHECK_EXTENSION: Final = 0xAE03
_DM_TABLE_STATUS: Final = 0xC138FD0C
_GET_ENCRYPTION: Final = (0xC0096616, 0xC080661A)  # FS_IOC_GET_ENCRYPTION_POLICY_EX, _KEY_STATUS
IOCTL_READS: Final = frozenset(
    {termios.TIOCOUTQ, _KVM_CHECK_EXTENSION, _DM_TABLE_STATUS, *_GET_ENCRYPTION}
)


def put(owner: object, name: str, function: object) -> None:
    """Replaces `owner.name` in this process."""
    setattr(owner, name, function)


def wrap(fuse: Fuse) -> None:
    """Makes the fuse count every effect of this process."""
    for name in OS:
        setattr(os, name, _counted(fuse, name, getattr(os, name)))
    put(os, "open", _counted_open(fuse, os.open))
    _wrap_files(fuse)
    _wrap_sockets(fuse)
    _wrap_processes(fuse)
    _wrap_libraries(fuse)
    commit = Database._commit

    def counted_commit(ledger: Database) -> None:
        with fuse.effect("ledger commit"):
            commit(ledger)

    put(Database, "_commit", counted_commit)


def _shown(argument: object) -> str:
    if isinstance(argument, bytes):
        return argument[:60].decode("latin-1").splitlines()[0] if argument else ""
    return str(argument).replace("\n", " ")[:200]


def _counted(fuse: Fuse, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*arguments: Any, **options: Any) -> Any:
        # A descriptor's number differs each time: the name is that of its file.
        named = [_shown(value) for value in arguments[:2] if isinstance(value, str | os.PathLike)]
        with fuse.effect(" ".join((name, *(named or [_descriptor(arguments[0])])))):
            return original(*arguments, **options)

    return counted


def _descriptor(fd: object) -> str:
    if not isinstance(fd, int):
        return ""
    try:
        return Path(f"/proc/self/fd/{fd}").readlink().name
    except OSError:
        return ""


def _counted_open(fuse: Fuse, original: Callable[..., int]) -> Callable[..., int]:
    def counted(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if not flags & CREATING:
            return original(path, flags, *arguments, **options)
        with fuse.effect(f"open {_shown(path)}"):
            return original(path, flags, *arguments, **options)

    return counted


def _wrap_files(fuse: Fuse) -> None:
    opened = io.open

    class CountedFile(io.FileIO):
        """A file whose opening, writes and truncation are effects."""

        def __init__(self, path: Any, mode: str) -> None:
            with fuse.effect(f"open {path}"):
                super().__init__(path, mode)

        def write(self, data: Any) -> int:
            with fuse.effect(f"write {self.name}"):
                return super().write(data) or 0

        def truncate(self, size: int | None = None) -> int:
            with fuse.effect(f"truncate {self.name}"):
                return super().truncate(size)

    def counted(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+"):
            return opened(file, mode, buffering, *rest, **options)
        raw = CountedFile(file, mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **options)

    put(io, "open", counted)
    put(builtins, "open", counted)


def _wrap_sockets(fuse: Fuse) -> None:
    for name in ("send", "sendall", "sendto"):
        original = getattr(socket.socket, name)

        def counted(self: socket.socket, data: Any, *rest: Any, original: Any = original) -> object:
            raw = bytes(data)
            kind = wire.netlink if self.family == socket.AF_NETLINK else wire.stream
            named, asks = kind(raw)
            if asks:
                return original(self, data, *rest)
            with fuse.effect(named):
                return original(self, data, *rest)

        setattr(socket.socket, name, counted)


def _wrap_processes(fuse: Fuse) -> None:
    begin = subprocess.Popen.__init__

    def counted(self: Any, argv: Any, *rest: Any, **options: Any) -> None:
        program = Path(str(argv[0])).name
        with fuse.effect(f"process {program} {_shown(argv[-1])}"):
            begin(self, argv, *rest, **options)

    put(subprocess.Popen, "__init__", counted)
    send = signal.pidfd_send_signal

    def counted_signal(pidfd: int, number: int, *rest: Any) -> None:
        with fuse.effect(f"signal {signal.Signals(number).name}"):
            send(pidfd, number, *rest)

    put(signal, "pidfd_send_signal", counted_signal)


def _wrap_libraries(fuse: Fuse) -> None:
    control = fcntl.ioctl

    def counted_ioctl(fd: Any, request: int, *rest: Any) -> Any:
        if request in IOCTL_READS:
            return control(fd, request, *rest)
        with fuse.effect(f"ioctl {request:#x}"):
            return control(fd, request, *rest)

    put(fcntl, "ioctl", counted_ioctl)
    put(libc, "LIBRARY", _CountedLibc(fuse, libc.LIBRARY))
    transact = Libnftables.run

    def counted_run(library: Libnftables, text: str) -> str:
        if text.startswith("list "):
            return transact(library, text)
        with fuse.effect(f"nft {_shown(text)}"):
            return transact(library, text)

    put(Libnftables, "run", counted_run)


class _CountedLibc:
    def __init__(self, fuse: Fuse, libc: Any) -> None:
        self._fuse = fuse
        self._libc = libc

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._libc, name)
        return _counted(self._fuse, name, function) if name in LIBC else function
