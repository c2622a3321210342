"""Ctrl-C and SIGTERM, heard for certain.

Python raises KeyboardInterrupt between any two instructions: in a finalizer it is ignored, and
between a child's start and the noting of it the child would be left running.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """From here on both signals raise KeyboardInterrupt in the main thread, which constructs it."""

    def __init__(self) -> None:
        self._asked = self._held = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def check(self) -> None:
        """Returns if nobody asked to stop, even if an interrupt was lost.

        Raises:
            KeyboardInterrupt: somebody did.
        """
        if self._asked:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """An interrupt waits for the end of the block.  A child started in it has none of this."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if not self._held:
            raise KeyboardInterrupt
