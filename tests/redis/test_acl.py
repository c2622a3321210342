"""The ACL users against a real Redis: all that is needed works, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from enqueue import HostClient, acl, keys
from enqueue.errors import EnqueueError
from enqueue.requests import Ping
from enqueue.results import Pong
from tests.fixtures.dashboard import DONE, FAILED, HOST, SLEEP, START, SUPERSEDED, Dashboard
from tests.fixtures.redis import RedisServer
from worker.config import RedisConfig, WorkerConfig
from worker.context import Delivery
from worker.host import redis as redis_host
from worker.ledger import Change, Ledger
from worker.publish import RedisPublisher
from worker.rq_worker import HostWorker

pytestmark = pytest.mark.redis

KEYS = keys.HostKeys(HOST)
OTHER = keys.HostKeys("host-b")
PASSWORD = "secret"
CLIENT, WORKER = acl.client_rights([HOST]), acl.worker_rights(HOST)
PONG = Pong(
    host=HOST, version="1", boot_id="b", uptime_s=1.0, firecracker_version="1", queue_depth=0
)


class Walled:
    """A host and its client, each with its own Redis user."""

    def __init__(
        self,
        server: RedisServer,
        ledger: Ledger,
        *,
        client: tuple[str, ...],
        worker: tuple[str, ...],
    ) -> None:
        self.admin = server.client()
        self.client_url = server.add_user("agentd", password=PASSWORD, rights=" ".join(client))
        url = server.add_user("hostd-host-a", password=PASSWORD, rights=" ".join(worker))
        self.config = RedisConfig(url=url)
        self.redis = redis_host.connect(self.config)
        self.client = HostClient(self.client_url)
        self.ledger = ledger
        self.publisher = RedisPublisher(
            self.redis, ledger, KEYS, WorkerConfig(), worker_name=f"{HOST}_w", wall=time.time
        )

    def close(self) -> None:
        self.client.close()
        self.redis.close()

    def denials(self) -> list[str]:
        """What Redis has refused so far."""
        return [f"{entry['username']}: {entry['object']}" for entry in self.admin.acl_log()]

    def serve(self, tell: Callable[[Delivery], None]) -> None:
        """The host comes, takes all that is queued, tells each, beats and leaves."""

        def deliver(deliveries: Any) -> None:
            for delivery in deliveries:
                tell(delivery)

        worker = HostWorker(
            self.redis, KEYS, name=f"{HOST}_w", deliver=deliver, refuse=self._refuse
        )
        worker._arrive()
        worker._take()
        worker.beat()
        worker._leave()

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self.publisher.quarantine(delivery, FAILED)


def everything(walled: Walled) -> None:
    """All that a host and its client ever ask of Redis."""
    redis_host.check(walled.redis, walled.config)
    owner = redis_host.Owner(machine_id="m", runtime="/run/hostd", pid=1)
    redis_host.claim(walled.redis, KEYS, owner)
    tickets = walled.client.enqueue_many(
        [(START, "one"), (SLEEP, "two"), (START, "three"), (Ping(), "four")], host=HOST
    )
    dead = walled.client.enqueue(START, host=HOST, request_id="dead")
    walled.admin.delete(keys.job(dead.job_id))
    answers = dict(zip((t.job_id for t in tickets), (DONE, FAILED, SUPERSEDED, PONG), strict=True))

    def tell(delivery: Delivery) -> None:
        walled.publisher.deferred([delivery.id])
        walled.publisher.started(delivery)
        walled.publisher.tell(delivery, answers[delivery.id], request_id=None)

    change = Change(instance_id="i-1a2b3c4d", tenant_id="a", pool_id="p", status="running")
    walled.ledger.decide("none", DONE, now_ms=1, events=[b'{"event":"x"}'], change=change)
    walled.serve(tell)
    with walled.redis.pipeline(transaction=False) as pipe:
        pipe.llen(KEYS.queue).zcard(KEYS.failed).execute()
    assert [ticket.wait(5) for ticket in tickets] == list(answers.values())
    assert tickets[1].retry().status() == "queued"
    assert walled.client.ticket("one", host=HOST).wait(5) == DONE
    walled.client.jobs(
        host=HOST, states=["queued", "deferred", "started", "failed", "canceled", "finished"]
    )
    assert walled.client.events(host=HOST)
    assert walled.client.events(host=HOST, after="now")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db")
    yield opened
    opened.close()


@pytest.fixture
def walled(redis_server: RedisServer, ledger: Ledger) -> Iterator[Walled]:
    redis_server.client().acl_log_reset()
    made = Walled(redis_server, ledger, client=CLIENT, worker=WORKER)
    yield made
    made.close()


def test_everything_that_a_host_and_its_client_do_is_allowed(walled: Walled) -> None:
    everything(walled)
    assert walled.denials() == []


def reduced(right: str) -> tuple[str, ...]:
    """Weaker forms of a right: a command or a read-only key goes, a key loses one direction."""
    if right.startswith("~"):
        return (f"%R{right}", f"%W{right}")
    return ("",)


def needed(rights: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(r, weaker) for r in rights if r != "-@all" for weaker in reduced(r)]


@pytest.mark.parametrize("whose", ["client", "worker"])
def test_every_single_right_is_needed(
    redis_server: RedisServer, tmp_path: Path, whose: str
) -> None:
    idle = []
    for right, weaker in needed(CLIENT if whose == "client" else WORKER):
        redis_server.reset()
        redis_server.client().acl_log_reset()
        rights = {"client": CLIENT, "worker": WORKER}
        rights[whose] = tuple(weaker if r == right else r for r in rights[whose])
        ledger = Ledger(
            tmp_path / f"{len(idle)}-{right.replace('/', '_')}-{bool(weaker)}{weaker[:2]}.db"
        )
        walled = Walled(redis_server, ledger, **rights)
        with suppress(RedisError, EnqueueError, AssertionError, Exception):
            everything(walled)
        if not walled.denials():
            idle.append(f"{right} -> {weaker or 'nothing'}")
        walled.close()
        ledger.close()
    assert idle == []
