"""Redis is slow, or the connection breaks in one round trip after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest

from enqueue import HostClient
from enqueue.client import Ticket
from enqueue.errors import QueueUnavailable
from tests.fixtures.asking import done
from tests.fixtures.effects import Effects, up
from tests.fixtures.host_in_every_state import SETTINGS, HostInEveryState
from tests.fixtures.proxy import Proxy
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import BOUND_S, HOST, HostdProcess, eventually

pytestmark = [pytest.mark.redis, pytest.mark.root]

TIMEOUT_S = 0.5
FIRST_NET = 100
TRIES = 6

T = TypeVar("T")


@pytest.fixture
def proxies(redis_server: RedisServer, tmp_path: Path) -> Iterator[dict[str, Proxy]]:
    """The proxies to Redis of the worker and of its client."""
    made = {
        whose: Proxy(tmp_path / whose, server=redis_server.socket) for whose in ("worker", "client")
    }
    for proxy in made.values():
        proxy.start()
    yield made
    for proxy in made.values():
        proxy.stop()


@pytest.fixture
def hostd(redis_server: RedisServer, proxies: dict[str, Proxy]) -> Iterator[HostdProcess]:
    """A running host behind its proxy."""
    redis = {"url": proxies["worker"].url, "timeout_s": TIMEOUT_S}
    with HostdProcess(redis_server, SETTINGS | {"redis": redis}) as hostd:
        hostd.start()
        yield hostd


@pytest.fixture
def client(proxies: dict[str, Proxy]) -> Iterator[HostClient]:
    """A client behind its proxy."""
    with HostClient(proxies["client"].url, timeout_s=TIMEOUT_S) as client:
        yield client


def insisting(call: Callable[[], T]) -> T:
    """What the call returns; it is repeated while Redis seems unreachable."""
    while True:
        try:
            return call()
        except QueueUnavailable:
            pass


def carried_out(hostd: HostdProcess, client: HostClient, net_id: int) -> None:
    """Requests the network twice and checks both results, whatever breaks meanwhile."""
    name = f"up-{net_id}"

    def ask() -> Ticket:
        return client.enqueue(up(net_id), host=HOST, request_id=name)

    ticket = insisting(ask)
    assert insisting(lambda: done(ticket)).changed
    assert insisting(ask).request_id == name
    eventually(lambda: hostd.state_of(name) == "published", "it is published")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("whose", ["worker", "client"])
def test_a_connection_cut_in_any_round_trip_loses_and_repeats_nothing(
    hostd: HostdProcess,
    client: HostClient,
    proxies: dict[str, Proxy],
    redis_server: RedisServer,
    whose: str,
    after: bool,
) -> None:
    with closing(Effects(hostd)) as effects:
        for number in count(1):
            proxies[whose].cut(number, after=after)
            carried_out(hostd, client, FIRST_NET + number)
            if not proxies[whose].has_cut():
                break
        made = [effects.of(FIRST_NET + one) for one in range(1, number + 1)]
    print(f"{whose}: {number - 1} round trips were cut")
    assert number > 2
    assert made == [(1, 0)] * number
    server = redis_server.client()
    eventually(lambda: server.llen(hostd.keys.intermediate) == 0, "all is told")
    assert server.llen(hostd.keys.queue) == 0
    assert hostd.runs()


@pytest.mark.parametrize("delay_s", [TIMEOUT_S / 3, TIMEOUT_S * 1.5], ids=["slow", "too slow"])
def test_a_slow_redis_loses_and_repeats_nothing(
    hostd: HostdProcess, client: HostClient, proxies: dict[str, Proxy], delay_s: float
) -> None:
    with HostInEveryState(hostd, client) as host:
        host.fill()
        for proxy in proxies.values():
            proxy.delay_s = delay_s
        host.release()
        before = proxies["worker"].round_trips
        eventually(
            lambda: proxies["worker"].round_trips > before + TRIES, "hostd tries", bound_s=BOUND_S
        )
        for proxy in proxies.values():
            proxy.delay_s = 0.0
        print(f"hostd went on {host.works_after_s():.2f} s after Redis was fast again")
        assert host.lost() == []
        host.assert_all_ended_once()
