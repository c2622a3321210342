"""The stand-in jailer and VMM, with a journal that outlives each guest and every hostd.

Runs where launchers run: the standard library and `worker.simulator` only.  One file a host takes a
line for each thing that a guest goes through; a lock that each VMM holds until its end shows two at
once, and who lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from typing import NoReturn

from worker.simulator import entry, vmm
from worker.simulator import jailer as jailing
from worker.simulator.guest import Guest
from worker.simulator.machine import Machine

JOURNAL, LOCK = 100, 101  # the jailer closes what is below 64 when it becomes the VMM
EFFECTS = "effects"


def note(event: str, name: str, guest: Guest | None = None) -> None:
    """A line of the journal."""
    line: dict[str, object] = {"at_s": time.monotonic(), "instance": name, "event": event}
    if guest is not None:
        line |= {"life": guest.token.hex(), "counter": guest.counter}
    os.write(JOURNAL, json.dumps(line).encode() + b"\n")


class NotedMachine(Machine):
    """What its guest goes through is in the journal before it goes through it."""

    booting = ran = False

    def boot(self) -> None:
        self.booting = True
        super().boot()

    def resume(self) -> None:
        note(
            "resumed" if self.ran else "booted" if self.booting else "woken", self.name, self.guest
        )
        self.ran = True
        super().resume()

    def pause(self) -> None:
        super().pause()
        note("paused", self.name, self.guest)


_run = jailing.run


def _noted_run(jail: jailing.Jail, become: jailing.Vmm) -> NoReturn:
    directory = jail.exec_file.rpartition("/")[0]
    _open(f"{directory}/{EFFECTS}", JOURNAL)
    _open(f"{directory}/{jail.id}.lock", LOCK)
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("second", jail.id)
    note("spawned", jail.id)
    _run(jail, become)


def _open(path: str, number: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, number)
    os.close(fd)


def jailer(argv: list[str]) -> NoReturn:
    """The launcher's entry, in a process of its own."""
    vars(jailing)["run"] = _noted_run
    vars(vmm)["Machine"] = NotedMachine
    entry.jailer(argv)
