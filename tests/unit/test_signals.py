"""SIGTERM is handled also while the main thread holds the lock that its handling needs."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from worker.daemon.signals import call_on_stop

BOUND_S = 10.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_handled_while_the_main_thread_holds_the_lock(
    number: signal.Signals,
) -> None:
    lock, told = threading.Lock(), threading.Event()

    def call() -> None:
        with lock:  # as an Event's `set` does
            told.set()

    before = signal.getsignal(number)
    with call_on_stop(call):
        with lock:
            os.kill(os.getpid(), number)
            assert not told.wait(0)
        assert told.wait(BOUND_S)
    assert signal.getsignal(number) is before


def test_other_signals_are_ignored() -> None:
    heard_ones: list[str] = []
    told = threading.Event()

    def call() -> None:
        heard_ones.append("termination")
        told.set()

    before = signal.signal(signal.SIGUSR1, lambda *_: heard_ones.append("another"))
    try:
        with call_on_stop(call):
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert told.wait(BOUND_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard_ones == ["another", "termination"]
