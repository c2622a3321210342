"""A host that has just booted waits for its clock, for a bounded time."""

from __future__ import annotations

from worker.daemon.clock_sync import TRUSTED_S, await_clock


class Booting:
    """A machine whose clock is synchronized from some uptime on."""

    def __init__(self, uptime_s: float, synchronized_from_s: float) -> None:
        self.uptime_s = uptime_s
        self.synchronized_from_s = synchronized_from_s
        self.waited_s = 0.0
        self.stopping = False

    def pause(self, seconds: float) -> bool:
        self.waited_s += seconds
        self.uptime_s += seconds
        return self.stopping

    def await_clock(self) -> bool:
        return await_clock(
            synchronized=lambda: self.uptime_s >= self.synchronized_from_s,
            uptime_s=lambda: self.uptime_s,
            pause=self.pause,
        )


def test_a_synchronized_clock_is_not_waited_for() -> None:
    host = Booting(uptime_s=1, synchronized_from_s=0)
    assert host.await_clock()
    assert host.waited_s == 0


def test_a_late_clock_is_waited_for() -> None:
    host = Booting(uptime_s=10, synchronized_from_s=20)
    assert host.await_clock()
    assert host.waited_s == 10


def test_an_unsynchronized_clock_delays_a_host_at_most_a_minute_after_boot() -> None:
    fresh, old = Booting(10, float("inf")), Booting(TRUSTED_S, float("inf"))
    assert not fresh.await_clock()
    assert fresh.waited_s == TRUSTED_S - 10
    assert not old.await_clock()
    assert old.waited_s == 0


def test_a_stop_ends_the_wait() -> None:
    host = Booting(uptime_s=1, synchronized_from_s=50)
    host.stopping = True
    assert not host.await_clock()
    assert host.waited_s == 0.5
