"""The worker's loop never stops trying to reach Redis, with short pauses."""

from __future__ import annotations

import threading

import pytest

from enqueue.keys import HostKeys
from tests.fixtures.redis import RedisServer
from worker.queue.consumer import HostWorker

pytestmark = pytest.mark.redis

AWAY_S = 600.0
SOON_S = 1.0  # of the 2 s within which hostd goes on


class Pauses(threading.Event):
    """Adds up the pauses without waiting; set after ten minutes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.taken.append(timeout)
        if sum(self.taken) > AWAY_S:
            self.set()
        return self.is_set()


def test_ten_minutes_without_redis_change_nothing(redis_server: RedisServer) -> None:
    worker = HostWorker(
        redis_server.client(),
        HostKeys("host-a"),
        name="host-a_test",
        deliver=lambda _: None,
        refuse=lambda _, __: None,
        room=lambda: 1,
    )
    worker.stopping = pauses = Pauses()
    redis_server.stop()
    worker.work()
    assert sum(pauses.taken) > AWAY_S
    assert max(pauses.taken) < SOON_S
    assert not worker.connected.is_set()
