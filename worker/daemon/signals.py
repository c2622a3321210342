"""SIGTERM and SIGINT, heard without taking a lock.

A handler in Python runs on the main thread between two instructions: if it sets an Event in whose
`wait` the main thread just holds the Event's lock, both stand still for ever.  The wake-up
descriptor is written by the interpreter itself (Python's documentation, "signal.set_wakeup_fd").
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def call_on_stop(call: Callable[[], None]) -> Iterator[None]:
    """Within, `call` is made on a thread of its own for each of the signals."""
    heard_fd, tell_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(tell_fd, False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    fd_before = signal.set_wakeup_fd(tell_fd)

    def listen() -> None:
        while byte := os.read(heard_fd, 1):
            if byte[0] in SIGNALS:
                call()
        os.close(heard_fd)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(tell_fd)
