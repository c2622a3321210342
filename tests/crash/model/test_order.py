"""After a restart, too, an instance's requests are carried out in the order of their acceptance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue.results import Done, Failed
from tests.crash.model.model_host import ModelHost
from tests.fakes.fuse import KilledError
from tests.fakes.scenarios import SLEEP, START, prepare


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ModelHost]:
    host = ModelHost(tmp_path)
    yield host
    host.close()


def test_a_sleep_that_had_not_begun_does_not_overtake_the_start_before_it(
    host: ModelHost,
) -> None:
    prepare(host, [])
    host.enqueue(START, "start")
    host.enqueue(SLEEP, "sleep")
    host.fuse.rearm(2)  # both are accepted, and no attempt has begun
    with pytest.raises(KilledError):
        host.deliver()
    host.fuse.rearm()
    host.restart()
    assert host.history.jumped == []
    slept = host.published["h1_sleep"][-1]
    assert isinstance(slept, Done), slept
    assert slept.state == "sleeping"


@pytest.mark.parametrize("at", range(1, 6))
def test_a_retried_sleep_never_mixes_with_a_later_request(host: ModelHost, at: int) -> None:
    prepare(host, [START])
    host.images.free_bytes = 10
    host.enqueue(SLEEP, "sleep")
    host.deliver()
    for _ in range(host.context.config.retry.attempts):
        host.now_s += 60
        host.executors.run()
    assert isinstance(host.published["h1_sleep"][-1], Failed)
    host.images.free_bytes = 1 << 40
    host.begin(START, "later")
    host.fuse.rearm(at)
    with pytest.raises(KilledError):
        host.restart()
    host.fuse.rearm()
    sleep, later = host.ledger.requests.entry("sleep"), host.ledger.requests.entry("later")
    assert sleep.state != "accepted" or sleep.seq > later.seq
    host.restart()
    assert host.history.jumped == []
