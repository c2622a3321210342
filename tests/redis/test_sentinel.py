"""The client through a failover by a real Redis Sentinel."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from enqueue import HostClient
from enqueue.errors import QueueUnavailable
from enqueue.requests import Ping
from enqueue.results import Result
from tests.fixtures.tiny_host import DONE, TinyHost

pytestmark = [pytest.mark.redis, pytest.mark.slow]

HOST = "host-a"
MASTER = "hostd"
BOUND_S = 60.0


class Group:
    """A master, its replica and a sentinel on loopback ports of their own."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        master_port, replica_port, sentinel_port = free_ports(3)
        quick = ("--save", "", "--repl-diskless-sync-delay", "0", "--dir", str(directory))
        self.master = self._server("redis-server", "--port", str(master_port), *quick)
        self.old = self._client(master_port)
        self.new = self._client(replica_port)
        replica = ("--port", str(replica_port), "--replicaof", f"127.0.0.1 {master_port}")
        self._server("redis-server", *replica, *quick)
        until(lambda: info(self.new, "replication").get("master_link_status") == "up")
        config = directory / "sentinel.conf"
        config.write_text(
            f"port {sentinel_port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master_port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 300\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        self._server("redis-server", str(config), "--sentinel")
        self.sentinel = self._client(sentinel_port)
        until(lambda: self._replicas_known() == 1)
        self.address = ("127.0.0.1", sentinel_port)

    def _replicas_known(self) -> int:
        masters: Any = self.sentinel.sentinel_masters()
        return int(masters[MASTER]["num-slaves"])

    def _server(self, *argv: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._directory / "log").open("ab"))
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def _client(self, port: int) -> redis.Redis:
        retry = Retry(NoBackoff(), 0)
        client = redis.Redis(port=port, retry=retry)
        self._stack.callback(client.close)
        return client


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in held]


def info(client: redis.Redis, section: str) -> dict[str, Any]:
    found: Any = client.info(section)
    return dict(found)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while True:
        try:
            if condition():
                return
        except (redis.RedisError, KeyError):
            pass  # not up yet
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    with ExitStack() as stack:
        yield Group(tmp_path, stack)


@pytest.fixture
def client(group: Group) -> Iterator[HostClient]:
    with ExitStack() as stack:
        untyped: Any = Sentinel  # so it is in redis-py
        sentinel = untyped([group.address], socket_timeout=2.0)
        for one in sentinel.sentinels:
            stack.callback(one.close)
        given = sentinel.master_for(MASTER, socket_timeout=2.0, retry=Retry(NoBackoff(), 0))
        stack.callback(given.close)
        yield stack.enter_context(HostClient(given))


def test_a_waiter_gets_its_result_from_the_new_master(group: Group, client: HostClient) -> None:
    ticket = client.enqueue(Ping(), host=HOST, request_id="same")
    outcomes: list[Result] = []
    waiter = threading.Thread(target=lambda: outcomes.append(ticket.wait(BOUND_S)))
    waiter.start()
    until(lambda: info(group.old, "clients")["blocked_clients"] >= 1)
    group.master.kill()
    until(lambda: info(group.new, "replication")["role"] == "master")
    # Replication is asynchronous: were the job lost, the waiter would send it again.
    TinyHost(group.new, HOST).answer(DONE)
    waiter.join(BOUND_S)
    assert outcomes == [DONE]


def test_enqueueing_goes_on_at_the_new_master(group: Group, client: HostClient) -> None:
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
