"""Numbers the effects of one process, and kills it before or after one of them.

An effect within another belongs to it.  One that the kernel refused and that is tried again at
once, as the removal of a control group whose last process is still ending, keeps its number: how
often it is tried is the kernel's business.
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
    """On which side of an effect the process dies."""

    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class At:
    """One point to die at; effects are numbered from 1."""

    number: int
    when: When

    def __str__(self) -> str:
        return f"{self.when.value} {self.number}"


class Fuse:
    """Counts while armed; every effect stands in `log` when it begins and when it has ended."""

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
        """Counting begins."""
        self._armed = True
        self._say("armed")

    def disarm(self) -> None:
        """Counting ends, if it has not; the log says which threads there are."""
        if not self._armed:
            return
        self._armed = False
        threads = " ".join(str(thread.native_id) for thread in threading.enumerate())
        self._say(f"disarmed {threads}")

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """What happens within is the next effect, unless it is part of one."""
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
        self._say(f"+ {number} {name}")
        return number

    def _end(self, number: int) -> None:
        self._say(f"- {number}")
        if self._at == At(number, When.AFTER):
            self._die(number, "")

    def _die(self, number: int, name: str) -> None:
        self._say(f"burnt {number} {name}")
        _kill(_getpid(), signal.SIGKILL)

    def _say(self, what: str) -> None:
        _write(self._log, f"{LOG_MARK} {what}\n".encode(errors="backslashreplace"))
