"""Killing all of a control group: by v2's own means where there is v2, process by process else.

A process that was killed on its way into the group may have joined only some hierarchies.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from worker.host.cgroups.limits import read
from worker.linux import processes

_ROUND_S: Final = 0.2


def members(directories: tuple[Path, ...]) -> frozenset[int]:
    """Processes that have joined the group in any hierarchy, in this pid namespace.

    Zombies are not members (css_task_iter, Linux 5.2).
    """
    listed = (read(directory / "cgroup.procs") or "" for directory in directories)
    # 0 is a process of another pid namespace, which has no pid here.
    return frozenset(int(pid) for text in listed for pid in text.split() if pid != "0")


def signal_all(directories: tuple[Path, ...]) -> None:
    """Every process of the group was sent SIGKILL."""
    for directory in directories:
        _write(directory / "cgroup.kill", "1")  # v2, Linux 5.14: forks cannot outrun it
    with _frozen(directories):
        for pid in members(directories):
            process = processes.open_pidfd(pid)
            if process is None:
                continue
            with process:
                # Looked at again: the pid may have been another's when its pidfd was opened.
                if pid in members(directories):
                    process.signal(signal.SIGKILL)


def wait_for_end(directories: tuple[Path, ...], *, until: float) -> None:
    """Something ended, or a round or the time (monotonic, seconds) is over."""
    timeout_s = max(0.0, min(_ROUND_S, until - time.monotonic()))
    with ExitStack() as stack:
        poll = select.poll()
        for directory in directories:
            if (events := _events(directory)) is not None:
                stack.callback(os.close, events)
                poll.register(events, select.POLLPRI)
        for pid in members(directories):
            if (process := processes.open_pidfd(pid)) is not None:
                poll.register(stack.enter_context(process).fileno(), select.POLLIN)
        poll.poll(timeout_s * 1000)


def kill_and_reap(directories: tuple[Path, ...], *, timeout_s: float) -> None:
    """Kills every process of the group, waits for them at most `timeout_s` in all, reaps them."""
    deadline = time.monotonic() + timeout_s
    with ExitStack() as stack:
        opened: list[processes.Process] = []
        # Again each round: a process may have forked past the last look.
        while (pids := members(directories)) and time.monotonic() < deadline:
            found = (processes.open_pidfd(pid) for pid in pids)
            opened += [stack.enter_context(process) for process in found if process is not None]
            signal_all(directories)
            for process in opened:
                process.wait(timeout_s=deadline - time.monotonic())
        # Only now: a zombie belongs to its parent until that one, too, has ended.
        for process in opened:
            process.exit_code()


@contextmanager
def _frozen(directories: tuple[Path, ...]) -> Iterator[None]:
    """Freezes the group by v1's freezer: it does not fork meanwhile (freezer-subsystem.rst).

    A frozen process takes even SIGKILL only once it is thawed.
    """
    states = [directory / "freezer.state" for directory in directories]
    for state in states:
        _write(state, "FROZEN")
    try:
        yield
    finally:
        for state in states:
            _write(state, "THAWED")


def _events(directory: Path) -> int | None:
    """v2's cgroup.events, read once, so that POLLPRI says when it next changes."""
    try:
        fd = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    os.read(fd, 256)
    return fd


def _write(file: Path, text: str) -> None:
    """The kernel took `text`, or has no such file, or the group is gone."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, text.encode())
    except OSError:
        return
    finally:
        os.close(fd)
