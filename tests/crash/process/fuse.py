"""Numbers the effects of one process, and kills it before or after one of them.

An effect within another is part of it.  One that the kernel refused and that is retried at once,
such as the removal of a control group whose last process is still ending, keeps its number: the
number of tries depends on the kernel.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

LOG_MARK: Final = "effect"

# Taken before anything is patched.
_write, _kill, _getpid = os.write, os.kill, os.getpid


class When(Enum):
    """Whether the process dies before or after the effect."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class At:
    """The point of a kill; effects are numbered from 1."""

    number: int
    when: When

    def __str__(self) -> str:
        return f"{self.when.value} {self.number}"


class Fuse:
    """Counts while armed, and logs the begin and the end of every effect."""

    def __init__(self, log: int, at: At | None = None) -> None:
        self._log = log
        self._at = at
        self._armed = False
        self._count = 0
        self._last: str | None = None
        self._refused = False
        self._own = threading.local()
        self._lock = threading.Lock()

    def arm(self) -> None:
        """Starts to count."""
        self._armed = True
        self._write_line("armed")

    def disarm(self) -> None:
        """Stops counting, if it counts, and logs the ids of all threads."""
        if not self._armed:
            return
        self._armed = False
        threads = " ".join(str(thread.native_id) for thread in threading.enumerate())
        self._write_line(f"disarmed {threads}")

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """Counts the block as the next effect, unless it is part of one."""
        if not self._armed or getattr(self._own, "inside", False):
            yield
            return
        self._own.inside = True
        try:
            number = self._begin(name)
            try:
                yield
            except OSError:
                self._refused = True
                raise
            finally:
                self._end(number)
        finally:
            self._own.inside = False

    def _begin(self, name: str) -> int:
        with self._lock:
            if not (self._refused and self._last == name):
                self._count += 1
            self._refused, self._last = False, name
            number = self._count
        if self._at == At(number, When.BEFORE):
            self._die(number, name)
        self._write_line(f"+ {number} {name}")
        return number

    def _end(self, number: int) -> None:
        self._write_line(f"- {number}")
        if self._at == At(number, When.AFTER):
            self._die(number, "")

    def _die(self, number: int, name: str) -> None:
        self._write_line(f"killed {number} {name}")
        _kill(_getpid(), signal.SIGKILL)

    def _write_line(self, what: str) -> None:
        _write(self._log, f"{LOG_MARK} {what}\n".encode(errors="backslashreplace"))
