"""Calls a function on SIGTERM and SIGINT without taking a lock in the handler.

A handler in Python runs on the main thread between two instructions: if it sets an Event in whose
`wait` the main thread just holds the Event's lock, both wait for ever.  The wake-up
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
    """In this block, `call` is called on its own thread for each of the signals."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_fd, False)
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    fd_before = signal.set_wakeup_fd(write_fd)

    def listen() -> None:
        while byte := os.read(read_fd, 1):
            if byte[0] in SIGNALS:
                call()
        os.close(read_fd)

    threading.Thread(target=listen, name="signals", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(write_fd)
