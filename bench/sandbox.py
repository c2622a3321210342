"""The benchmark's own part of the machine: directory, network namespace, control groups, Redis.

A run locks its sandbox's directory, so that a later run can recognize and remove the sandbox of a
killed one.  Redis and the workers die with the run that started them.
"""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bench.guest import Guest, choose
from worker.demo import cleanup
from worker.demo.private_host import PrivateHost

HOST: Final = "bench"
PREFIX: Final = "hostd-bench-"
PLACE: Final = Path("/var/tmp")


class Sandbox(PrivateHost):
    """A private Redis, and a real `hostd run` when a measurement asks for it."""

    def __init__(self, base: Path, kernel: Path | None, hostd: Path) -> None:
        self.guest: Guest = choose(base, kernel)
        program, vmm = [str(hostd)], self.guest.settings
        super().__init__(base, host=HOST, cgroup=base.name, program=program, vmm=vmm)

    @contextmanager
    def worker(self, redis_url: str | None = None) -> Iterator[None]:
        """A `hostd run` serves; it has ended afterwards."""
        self.start_worker(redis_url)
        try:
            yield
        finally:
            self.end("worker")

    def spawn(self, name: str, command: list[str], *inherited: int) -> None:
        """As a `PrivateHost`'s; the child dies with the thread that started it."""
        super().spawn(name, ["setpriv", "--pdeathsig", "KILL", *command], *inherited)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """The child is stopped by SIGSTOP."""
        os.kill(self.pid(name), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(name), signal.SIGCONT)


@contextmanager
def sandbox(kernel: Path | None, *, hostd: Path) -> Iterator[Sandbox]:
    """A sandbox with its Redis, for that `hostd`; nothing of it is left afterwards."""
    for stale in PLACE.glob(f"{PREFIX}*"):
        with suppress(BlockingIOError), _locked(stale):
            _clear(stale)
    base = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
    with _locked(base):
        try:
            box = Sandbox(base, kernel, hostd)
            try:
                box.start_redis()
                yield box
            finally:
                box.close()
        finally:
            _clear(base)


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _clear(base: Path) -> None:
    """No guest, control group, mount or file of the sandbox is left."""
    _kill_unconfined(base)
    cleanup.remove(base, parent=base.name)


def _kill_unconfined(base: Path) -> None:
    """Kills VMMs started by hand, outside every control group: their root is one of our jails."""
    for pid_file in base.glob("by-hand/**/root/*.pid"):
        root = Path(f"/proc/{pid_file.read_text()}/root")
        with suppress(OSError):
            if root.samefile(pid_file.parent):
                os.kill(int(root.parent.name), signal.SIGKILL)
