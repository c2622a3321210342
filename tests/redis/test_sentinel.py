"""Client and worker during a failover by three real Redis Sentinels."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from enqueue import HostClient
from enqueue.errors import QueueUnavailable
from enqueue.requests import Ping
from enqueue.results import Result
from tests.fixtures.fake_consumer import DONE, FakeConsumer
from tests.fixtures.host_in_every_state import SETTINGS, HostInEveryState
from tests.fixtures.redis import RedisServer
from tests.fixtures.sentinel import BOUND_S, MASTER, Group, info, until
from tests.fixtures.worker import HOST, HostdProcess, eventually

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    with ExitStack() as stack:
        yield Group(tmp_path, stack)


@pytest.fixture
def client(group: Group) -> Iterator[HostClient]:
    with HostClient(group.master_client()) as client:
        yield client


def test_a_waiter_gets_its_result_from_the_new_master(group: Group, client: HostClient) -> None:
    ticket = client.enqueue(Ping(), host=HOST, request_id="same")
    outcomes: list[Result] = []
    waiter = threading.Thread(target=lambda: outcomes.append(ticket.wait(BOUND_S)))
    waiter.start()
    until(lambda: info(group.old, "clients")["blocked_clients"] >= 1)
    group.fail_over()
    # Replication is asynchronous: were the job lost, the waiter would send it again.
    FakeConsumer(group.new, HOST).answer(DONE)
    waiter.join(BOUND_S)
    assert outcomes == [DONE]


def test_enqueueing_continues_at_the_new_master(group: Group, client: HostClient) -> None:
    client.enqueue(Ping(), host="warm-up")
    group.master.kill()
    stored = False
    deadline = time.monotonic() + BOUND_S
    while not stored and time.monotonic() < deadline:
        try:
            client.enqueue(Ping(), host=HOST, request_id="same")
            stored = True
        except QueueUnavailable:
            time.sleep(0.05)
    assert group.new.lrange("rq:queue:hostd:host-a", 0, -1) == [b"host-a_same"]


@pytest.mark.root
def test_a_failover_that_loses_writes_loses_no_request_that_has_a_waiter(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        hostd = stack.enter_context(HostdProcess(redis_server, SETTINGS))
        # The host has a network of its own, and so has its loopback.
        with hostd.namespace.entered():
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            group = Group(tmp_path, stack)
        sentinels = [f"{address}:{port}" for address, port in group.addresses]
        hostd.configure(
            redis={"sentinels": sentinels, "sentinel_service": MASTER, "allow_no_aof": True}
        )
        hostd.start()
        with hostd.namespace.entered():
            client = stack.enter_context(HostClient(group.master_client()))
            host = stack.enter_context(HostInEveryState(hostd, client))
            group.lose_writes()
            host.fill()
            group.fail_over()
            host.release()
            took_s = host.works_after_s()
            print(f"hostd went on {took_s:.2f} s after the failover")
            eventually(lambda: hostd.state_of("up-24") == "published", "it is published")
            eventually(lambda: host.lost() == ["up-26"], "those who wait have asked again")
            host.assert_all_ended_once()
