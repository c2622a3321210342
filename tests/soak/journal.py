"""The stand-in jailer and VMM, with a journal that outlives every guest and hostd.

Runs where launchers run: it imports only the standard library and `worker.simulator`.  Each host
has one file with a line per event of a guest.  Each VMM holds a lock until its end, which shows
whether it lives, and whether there are two.
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

JOURNAL, LOCK = 100, 101  # the jailer closes those below 64 when it becomes the VMM
EFFECTS = "effects"


def record(event: str, name: str, guest: Guest | None = None) -> None:
    """Writes a line of the journal."""
    line: dict[str, object] = {"at_s": time.monotonic(), "instance": name, "event": event}
    if guest is not None:
        line |= {"life": guest.token.hex(), "counter": guest.counter}
    os.write(JOURNAL, json.dumps(line).encode() + b"\n")


class RecordedMachine(Machine):
    """Records in the journal what happens to its guest, before it happens."""

    booting = ran = False

    def boot(self) -> None:
        self.booting = True
        super().boot()

    def resume(self) -> None:
        record(
            "resumed" if self.ran else "booted" if self.booting else "woken", self.name, self.guest
        )
        self.ran = True
        super().resume()

    def pause(self) -> None:
        super().pause()
        record("paused", self.name, self.guest)


_run = jailing.run


def _recorded_run(jail: jailing.Jail, become: jailing.Vmm) -> NoReturn:
    directory = jail.exec_file.rpartition("/")[0]
    _open(f"{directory}/{EFFECTS}", JOURNAL)
    _open(f"{directory}/{jail.id}.lock", LOCK)
    try:
        fcntl.flock(LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        record("second", jail.id)
    record("spawned", jail.id)
    _run(jail, become)


def _open(path: str, number: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, number)
    os.close(fd)


def jailer(argv: list[str]) -> NoReturn:
    """The launcher's entry point."""
    vars(jailing)["run"] = _recorded_run
    vars(vmm)["Machine"] = RecordedMachine
    entry.jailer(argv)
