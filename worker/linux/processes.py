"""Processes, identified so that a reused pid is never mistaken for the process of before.

Identity is (boot id, pid, start time, executable).  To act on a process: open a pidfd, then compare
the identity, then use only the pidfd, which always means the same process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from worker.linux import libc
from worker.linux.machine import boot_id as boot_id

_UCRED: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_STAT_BYTES: Final = 4096  # 52 numbers and a name
_NAME_BYTES: Final = 15  # TASK_COMM_LEN, less its NUL


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies a process among all that this machine has run or will run.

    `start_ticks` is field 22 of /proc/<pid>/stat, clock ticks since boot (proc_pid_stat(5)).
    """

    boot_id: str
    pid: int
    start_ticks: int
    exe_dev: int
    exe_ino: int


@dataclass(frozen=True, slots=True)
class Stat:
    """Some fields of /proc/<pid>/stat; `state` is `Z` for a zombie.

    `name` is the first 15 bytes of its program's name, which a zombie keeps.
    """

    name: str
    state: str
    parent: int
    group: int
    session: int
    start_ticks: int


def stat(pid: int) -> Stat | None:
    """The process's fields; None if there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        text = os.read(fd, _STAT_BYTES).decode(errors="replace")
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
    # The command name (field 2) may contain blanks and parentheses: split after the last one.
    end = text.rindex(")")
    fields = text[end + 2 :].split()
    parent, group, session = map(int, fields[1:4])
    name = text[text.index("(") + 1 : end]
    return Stat(name, fields[0], parent, group, session, int(fields[19]))


class Process:
    """A process and its pidfd; use it as a context manager, or close it."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self._pidfd = pidfd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the pidfd; the process keeps running."""
        os.close(self._pidfd)

    def fileno(self) -> int:
        """The pidfd: readable once the process ended, even before it is reaped."""
        return self._pidfd

    def alive(self) -> bool:
        """Whether the process has not ended; a zombie has."""
        return not self.wait(timeout_s=0)

    def identity(self) -> Identity | None:
        """The process's identity; None once it has ended."""
        seen = stat(self.pid)
        try:
            exe = os.stat(f"/proc/{self.pid}/exe")  # noqa: PTH116  half as long as pathlib's
        except (FileNotFoundError, ProcessLookupError):
            return None
        # Only if the pidfd's process still lives was all of that read from it and not from a
        # successor of its pid.
        if seen is None or not self.alive():
            return None
        return Identity(boot_id(), self.pid, seen.start_ticks, exe.st_dev, exe.st_ino)

    def signal(self, number: signal.Signals) -> None:
        """Sends the signal; does nothing if the process has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def wait(self, *, timeout_s: float) -> bool:
        """Whether the process ended within the timeout."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))

    def exit_code(self) -> int | None:
        """The ended process's exit code (-n: signal n), reaping it and its group's zombies.

        None while it runs, or if it is not a child of this process: an orphan becomes one only
        where `adopt_orphans` was called before it was orphaned.
        """
        seen = stat(self.pid)
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if ended is None:
            return None
        if seen is not None:
            reap_group(seen.group)
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def listener_of(connection: socket.socket) -> int:
    """The pid, in this pid namespace, of the process that called listen(2) (unix(7))."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, _, _ = _UCRED.unpack(raw)
    return int(pid)


def open_pidfd(pid: int) -> Process | None:
    """The process that has this pid now; None if there is none."""
    try:
        return Process(pid, os.pidfd_open(pid))
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:  # EINVAL: not a positive pid, or (Linux < 6.9) a thread's id
        return None


def find(identity: Identity) -> Process | None:
    """The living process of this identity; None if it has ended.

    A zombie of it is reaped if it is this process's child.
    """
    if identity.boot_id != boot_id() or (process := open_pidfd(identity.pid)) is None:
        return None
    if process.identity() == identity:
        return process
    seen = stat(identity.pid)
    if seen is not None and seen.start_ticks == identity.start_ticks and not process.alive():
        process.exit_code()
    process.close()
    return None


def adopt_orphans() -> None:
    """Orphaned descendants become children of this process, so that it gets their exit codes."""
    libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_group(group: int) -> None:
    """Reaps the zombie children of this process in that process group."""
    if group in (0, os.getpgrp()):
        return
    try:
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def reap_strays(program: str) -> None:
    """Reaps zombie children of that program that are in a session of their own.

    For orphans whose pids are unknown: they ended before they could be found.
    """
    own = os.getsid(0)
    for pid in _pids():
        seen = stat(pid)
        if seen is None or (seen.state, seen.parent) != ("Z", os.getpid()):
            continue
        if seen.session != own and seen.name == program[:_NAME_BYTES]:
            _reap(pid)


def _pids() -> Iterator[int]:
    yield from (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
