"""The ACL users with a real Redis: everything needed is allowed, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from enqueue import HostClient, keys
from enqueue.errors import EnqueueError
from enqueue.hostctl import acl
from enqueue.requests import Ping
from enqueue.results import Failed, Pong, Result
from tests.fixtures.dashboard import (
    DONE,
    FAILED,
    HOST,
    SLEEP,
    START,
    SUPERSEDED,
    Dashboard,
    HostTraces,
)
from tests.fixtures.redis import RedisServer
from worker.config import RedisConfig, WorkerConfig
from worker.errors import StartupError
from worker.ledger.instances import Change
from worker.ledger.ledger import Ledger
from worker.protocol.delivery import Delivery
from worker.queue import connection as redis_host
from worker.queue.consumer import HostWorker
from worker.queue.publisher import RedisPublisher

pytestmark = pytest.mark.redis

KEYS = keys.HostKeys(HOST)
OTHER = keys.HostKeys("host-b")
PASSWORD = "secret"
ONCE = Retry(NoBackoff(), 0)
# The last is RQ's, about CLIENT LIST.
REFUSALS = (RedisError, EnqueueError, StartupError, AssertionError, Warning)
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
        """The commands that Redis has refused so far."""
        return [f"{entry['username']}: {entry['object']}" for entry in self.admin.acl_log()]

    def serve(self, tell: Callable[[Delivery], None]) -> None:
        """Runs a host that takes all queued jobs, publishes each result, beats and leaves."""

        def deliver(deliveries: Any) -> None:
            for delivery in deliveries:
                tell(delivery)

        worker = HostWorker(
            self.redis, KEYS, name=f"{HOST}_w", deliver=deliver, refuse=self._refuse, room=lambda: 9
        )
        worker._arrive()
        worker._take()
        worker.beat()
        worker._leave()

    def _refuse(self, delivery: Delivery, reason: str) -> None:
        self.publisher.quarantine(delivery, FAILED)


def everything(walled: Walled) -> None:
    """Does everything that a host and its client ever ask of Redis."""
    redis_host.check(walled.redis, walled.config)
    owner = redis_host.Owner(machine_id="m", runtime="/run/hostd", pid=1)
    redis_host.claim(walled.redis, KEYS, owner)
    tickets = walled.client.enqueue_many(
        [(START, "one"), (SLEEP, "two"), (START, "three"), (Ping(), "four")], host=HOST
    )
    dead = walled.client.enqueue(START, host=HOST, request_id="dead")
    walled.admin.delete(keys.job(dead.job_id))
    answers: dict[str, Result] = dict(
        zip((t.job_id for t in tickets), (DONE, FAILED, SUPERSEDED, PONG), strict=True)
    )

    def tell(delivery: Delivery) -> None:
        walled.publisher.mark_deferred([delivery.id])
        walled.publisher.mark_started(delivery)
        walled.publisher.publish(delivery, answers[delivery.id], request_id=None)

    change = Change(instance_id="i-1a2b3c4d", tenant_id="a", pool_id="p", status="running")
    walled.ledger.decide("none", DONE, now_ms=1, events=[b'{"event":"x"}'], change=change)
    walled.serve(tell)
    with walled.redis.pipeline(transaction=False) as pipe:
        pipe.llen(KEYS.queue)
        pipe.zcard(KEYS.failed)
        pipe.execute()
    assert [ticket.wait(2) for ticket in tickets] == list(answers.values())
    assert tickets[1].retry().status() == "queued"
    assert walled.client.ticket("one", host=HOST).wait(2) == DONE
    dropped = [walled.client.enqueue(START, host=HOST, request_id=id_) for id_ in ("five", "six")]
    assert [ticket.cancel() for ticket in (*dropped, dropped[0])] == ["cancelled"] * 3
    walled.admin.delete(keys.job(dropped[1].job_id))
    ended = Failed(
        op="StartInstance", code="conflict/cancelled", failure_class="conflict", message="-"
    )
    walled.serve(lambda delivery: walled.publisher.publish(delivery, ended, request_id=None))
    assert dropped[0].wait(2) == ended
    walled.publisher.mark_started(Delivery(dropped[0].job_id, b"x"))
    walled.publisher.mark_postponed(Delivery(dropped[0].job_id, b"x"))
    walled.client.jobs(
        host=HOST, states=["queued", "deferred", "started", "failed", "canceled", "finished"]
    )
    assert walled.client.events(host=HOST)
    assert walled.client.events(host=HOST, after="now")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(tmp_path / "ledger.db")
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
    """Weaker forms of a right: without a command, or a key without reading or without writing."""
    if right.startswith("~"):
        return (f"%R{right}", f"%W{right}")
    return ("",)


def needed(rights: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(r, weaker) for r in rights if r != "-@all" for weaker in reduced(r)]


@pytest.mark.slow
@pytest.mark.parametrize("whose", ["client", "worker"])
def test_every_single_right_is_needed(
    redis_server: RedisServer, tmp_path: Path, whose: str
) -> None:
    idle = []
    for number, (right, weaker) in enumerate(needed(CLIENT if whose == "client" else WORKER)):
        redis_server.reset()
        redis_server.client().acl_log_reset()
        rights = {"client": CLIENT, "worker": WORKER}
        rights[whose] = tuple(weaker if one == right else one for one in rights[whose])
        with closing(Ledger.open(tmp_path / f"{number}.db")) as ledger:
            walled = Walled(redis_server, ledger, **rights)
            with closing(walled), suppress(*REFUSALS):
                everything(walled)
            if not walled.denials():
                idle.append(f"{right} -> {weaker or 'nothing'}")
    assert idle == []


CLIENT_MAY_NOT: tuple[tuple[str, ...], ...] = (
    ("HGETALL", keys.job("host-a_x")),
    ("HGET", keys.job("host-b_x"), "data"),
    ("HSET", keys.job("host-b_x"), "data", "x"),
    ("RPUSH", OTHER.queue, "host-b_x"),
    ("LRANGE", OTHER.queue, "0", "-1"),
    ("XREVRANGE", keys.results("host-b_x"), "+", "-"),
    ("XREVRANGE", OTHER.events, "+", "-"),
    ("XADD", keys.results("host-a_x"), "*", "type", "1"),
    ("XADD", KEYS.events, "*", "event", "{}"),
    ("ZADD", KEYS.started, "1", "host-a_x"),
    ("ZREM", KEYS.started, "host-a_x"),
    ("LPOP", KEYS.queue),
    ("LREM", KEYS.intermediate, "0", "host-a_x"),
    ("RPUSH", KEYS.intermediate, "host-a_x"),
    ("SADD", keys.WORKERS, "rq:worker:x"),
    ("SMEMBERS", keys.QUEUES),
    ("SET", KEYS.owner, "me"),
    ("DEL", keys.job("host-a_x")),
    ("EVAL", "return 1", "0"),
)
WORKER_MAY_NOT: tuple[tuple[str, ...], ...] = (
    ("HSET", keys.job("host-b_x"), "status", "failed"),
    ("HGET", keys.job("host-b_x"), "data"),
    ("LRANGE", OTHER.intermediate, "0", "-1"),
    ("LMOVE", OTHER.queue, KEYS.intermediate, "LEFT", "RIGHT"),
    ("LMOVE", KEYS.queue, OTHER.queue, "LEFT", "RIGHT"),
    ("XADD", keys.results("host-b_x"), "*", "type", "1"),
    ("XADD", OTHER.events, "*", "event", "{}"),
    ("ZADD", OTHER.failed, "1", "host-b_x"),
    ("SET", OTHER.owner, "me"),
    ("DEL", "rq:worker:host-b_w"),
    ("XREVRANGE", keys.results("host-a_x"), "+", "-"),
    ("EVALSHA", "0" * 40, "0"),
)
NOBODY_MAY: tuple[tuple[str, ...], ...] = (
    ("PUBLISH", "rq:pubsub:host-a_w", "shutdown"),
    ("SUBSCRIBE", "rq:pubsub:host-a_w"),
    ("SET", "rq:suspended", "1"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("CONFIG", "SET", "appendonly", "no"),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("MONITOR",),
    ("SAVE",),
)


def assert_denied(redis: Redis, commands: tuple[tuple[str, ...], ...]) -> None:
    for command in commands:
        with pytest.raises(NoPermissionError):
            redis.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py's


def test_a_client_can_neither_touch_another_host_nor_act_as_one(walled: Walled) -> None:
    with Redis.from_url(walled.client_url) as redis:
        assert_denied(redis, CLIENT_MAY_NOT + NOBODY_MAY)
    with pytest.raises(EnqueueError):
        walled.client.enqueue(START, host="host-b")


def test_a_worker_can_touch_nothing_of_another_host(walled: Walled) -> None:
    assert_denied(walled.redis, WORKER_MAY_NOT + NOBODY_MAY)


def test_the_dashboard_shows_and_requeues_and_can_do_no_more(
    traces: HostTraces, redis_server: RedisServer
) -> None:
    traces.registered()
    traces.started()
    failed = traces.published(FAILED, SLEEP)
    admin = redis_server.client()
    admin.acl_log_reset()
    rights = " ".join(acl.dashboard_rights())
    url = redis_server.add_user("dashboard", password=PASSWORD, rights=rights)
    admin.config_resetstat()
    running = Dashboard("--redis", url)
    try:
        name, http = KEYS.queue_name, running.http
        registries = ("queued", "started", "deferred", "finished", "failed", "canceled")
        lists = [f"/0/data/jobs/{name}/{one}/8/asc/1.json" for one in (*registries, "scheduled")]
        for page in ("/", "/healthz", "/0/data/queues.json", "/0/data/workers.json", *lists):
            assert http.get(page).status_code == 200, page
        assert http.get(f"/0/data/job/{failed}.json").json()["status"] == "failed"
        assert http.post(f"/job/{failed}/requeue").status_code == 200
    finally:
        running.stop()
    assert [entry["object"] for entry in admin.acl_log()] == []
    used = {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}
    assert sorted(set(acl.DASHBOARD_COMMANDS) - used) == []
    with Redis.from_url(url) as redis:
        assert_denied(redis, NOBODY_MAY)
        assert_denied(redis, (("DEL", keys.job(failed)), ("LPOP", KEYS.queue)))
        assert_denied(redis, (("XADD", KEYS.events, "*", "event", "{}"),))


def test_redis_accepts_the_lines_as_an_acl_file(redis_server: RedisServer) -> None:
    hashes = {name: acl.password_hash(PASSWORD) for name in ("agentd", "hostd-host-a")}
    admin = redis_server.client()
    for line in acl.acl_lines("host-a", "host-b", hashes=hashes).splitlines()[1:]:
        _, name, *rules = line.split()
        execute: Any = admin.execute_command
        execute("ACL", "SETUSER", name, *rules)
    path = str(redis_server.socket)
    with Redis(unix_socket_path=path, username="agentd", password=PASSWORD) as r:
        assert r.llen(OTHER.queue) == 0
    for off in ("hostd-host-b", "dashboard"):
        with (
            Redis(unix_socket_path=path, username=off, password="x", retry=ONCE) as r,
            pytest.raises(AuthenticationError),
        ):
            r.ping()


def test_an_invalid_host_name_gets_no_lines() -> None:
    for name in ("*", "host a", "", "a_b", "host\nuser evil on nopass ~* +@all"):
        with pytest.raises(ValueError, match="no host name"):
            acl.acl_lines(name)
