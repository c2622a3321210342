"""Ctrl-C and SIGTERM that cannot be lost.

Python raises KeyboardInterrupt between any two instructions: in a finalizer it is ignored, and
between a child's start and the record of it, the child would be left running.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Makes both signals raise KeyboardInterrupt; constructed in the main thread."""

    def __init__(self) -> None:
        self._requested = self._deferred = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def check(self) -> None:
        """Raises an interrupt that was lost.

        Raises:
            KeyboardInterrupt: one of the signals came.
        """
        if self._requested:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defers an interrupt to the end of the block; children are not affected."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._requested = True
        if not self._deferred:
            raise KeyboardInterrupt
