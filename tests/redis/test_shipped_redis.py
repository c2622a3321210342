"""Redis as shipped keeps what it has acknowledged, whatever ends it and whoever wrote."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from enqueue import HostClient, keys
from tests.fixtures.dashboard import DONE, FAILED, HOST, START
from tests.fixtures.sentinel import free_ports, until
from tests.fixtures.shipped_redis import ShippedRedis, programs
from worker.config import RedisConfig, WorkerConfig
from worker.errors import StartupError
from worker.ledger.instances import Change
from worker.ledger.ledger import Ledger
from worker.queue import connection
from worker.queue.consumer import HostWorker
from worker.queue.publisher import RedisPublisher

pytestmark = pytest.mark.redis

KEYS = keys.HostKeys(HOST)
LOSING = "user default on nopass sanitize-payload resetchannels -@all +ping"


@pytest.fixture(params=programs())
def program(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    return name


@pytest.fixture
def directory() -> Iterator[Path]:
    # A Unix socket's path may have 107 bytes: pytest's own directories are longer.
    with tempfile.TemporaryDirectory(prefix="hostd-") as path:
        yield Path(path)


@pytest.fixture
def shipped(program: str, directory: Path) -> Iterator[ShippedRedis]:
    server = ShippedRedis(program, directory, HOST, "host-b")
    server.start()
    yield server
    server.end(signal.SIGKILL)


def enqueues(server: ShippedRedis) -> None:
    """agentd: three requests, one of them cancelled."""
    with HostClient(server.url("agentd")) as client:
        tickets = [client.enqueue(START, host=HOST, request_id=f"r{n}") for n in range(3)]
        assert tickets[2].cancel() == "cancelled"


def carries_out(server: ShippedRedis) -> None:
    """The worker: takes two requests, publishes a result and a failure, and events."""
    enqueues(server)
    config = RedisConfig(url=server.url(f"hostd-{HOST}"))
    with (
        closing(connection.connect(config)) as redis,
        closing(Ledger.open(server.directory / "ledger.db")) as ledger,
    ):
        publisher = RedisPublisher(
            redis, ledger, KEYS, WorkerConfig(), worker_name=f"{HOST}_w", wall=time.time
        )
        change = Change("i-1a2b3c4d", "a", "p", "running")
        ledger.decide("none", DONE, now_ms=1, events=[b'{"event":"x"}'], change=change)

        def deliver(deliveries: Any) -> None:
            for delivery in deliveries:
                publisher.mark_started(delivery)
                result = FAILED if delivery.id.endswith("_r1") else DONE
                publisher.publish(delivery, result, request_id=None)

        worker = HostWorker(
            redis, KEYS, name=f"{HOST}_w", deliver=deliver,
            refuse=lambda delivery, _: publisher.quarantine(delivery, FAILED), room=lambda: 9,
        )  # fmt: skip
        worker._arrive()
        while redis.llen(KEYS.queue):
            worker._take()
        worker.beat()


def requeues(server: ShippedRedis) -> None:
    """The dashboard: what RQ's own requeue of a failed job writes."""
    carries_out(server)
    with Redis.from_url(server.url("dashboard")) as redis, redis.pipeline() as pipe:
        (failed,) = redis.zrange(KEYS.failed, 0, -1)
        job_id = failed.decode()
        pipe.hset(keys.job(job_id), "status", "queued")
        pipe.rpush(KEYS.queue, job_id)
        pipe.zrem(KEYS.failed, job_id)
        pipe.execute()


ENDINGS: dict[str, Callable[[ShippedRedis], None]] = {
    "SIGTERM": lambda server: server.end(signal.SIGTERM),
    "SIGKILL": lambda server: server.end(signal.SIGKILL),
}


@pytest.mark.parametrize("writes", [enqueues, carries_out, requeues])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("rewritten", [False, True], ids=["as written", "rewritten"])
def test_a_restart_loses_nothing_that_was_acknowledged(
    shipped: ShippedRedis,
    writes: Callable[[ShippedRedis], None],
    ending: str,
    rewritten: bool,
) -> None:
    if rewritten:
        with HostClient(shipped.url("agentd")) as client:
            client.enqueue(START, host=HOST, request_id="before")
        shipped.rewrite()
    writes(shipped)
    before = shipped.content()
    assert keys.job(f"{HOST}_r0") in before
    ENDINGS[ending](shipped)
    shipped.start()
    assert shipped.content() == before
    assert shipped.critical() == []


def test_a_rewrite_after_the_writes_loses_nothing(shipped: ShippedRedis) -> None:
    requeues(shipped)
    before = shipped.content()
    shipped.rewrite()
    with HostClient(shipped.url("agentd")) as client:
        client.enqueue(START, host=HOST, request_id="after")
    shipped.end(signal.SIGKILL)
    shipped.start()
    after = shipped.content()
    assert before.keys() <= after.keys()
    assert keys.job(f"{HOST}_after") in after
    assert shipped.critical() == []


def test_hostd_refuses_a_redis_that_would_lose_requests(program: str, directory: Path) -> None:
    """And it really does lose them: the refusal is not a matter of taste."""
    losing = ShippedRedis(program, directory, HOST, default=LOSING)
    losing.start()
    try:
        config = RedisConfig(url=losing.url(f"hostd-{HOST}"))
        enqueues(losing)
        before = losing.content()
        with (
            closing(connection.connect(config)) as redis,
            pytest.raises(StartupError, match="would lose requests at its next restart"),
        ):
            connection.check(redis, config)
        losing.end(signal.SIGTERM)
        losing.start()
        if losing.content() == before:
            pytest.skip(f"{program} does not replay with the rights of the default user")
        assert losing.critical() != []
        with losing.observer() as admin:
            admin.execute_command("ACL", "SETUSER", "default", "reset", "off", "~*", "&*", "+@all")
        with closing(connection.connect(config)) as redis:
            connection.check(redis, config)
    finally:
        losing.end(signal.SIGKILL)


def test_a_user_that_may_not_ask_is_named(shipped: ShippedRedis) -> None:
    with shipped.observer() as admin:
        admin.execute_command("ACL", "SETUSER", f"hostd-{HOST}", "-acl|dryrun")
    config = RedisConfig(url=shipped.url(f"hostd-{HOST}"))
    with (
        closing(connection.connect(config)) as redis,
        pytest.raises(StartupError, match=r"\+acl\|dryrun"),
    ):
        connection.check(redis, config)


def test_nobody_gets_in_as_default_and_health_may_only_ping(shipped: ShippedRedis) -> None:
    for user, password in ((None, None), ("default", "x"), (None, "x")):
        with shipped.login(user, password) as stranger, pytest.raises(RedisError) as refused:
            stranger.ping()
        assert isinstance(refused.value, AuthenticationError), refused.value
    with shipped.login("health", "any") as health:
        assert health.ping()
        for command in (("GET", "x"), ("INFO",), ("ACL", "LIST"), ("PUBLISH", "x", "y")):
            with pytest.raises(NoPermissionError):
                health.execute_command(*command)


def test_a_request_can_be_named_twice_after_a_restart(shipped: ShippedRedis) -> None:
    """The same id again is the same request: the stored job is found, nothing is queued twice."""
    enqueues(shipped)
    shipped.end(signal.SIGTERM)
    shipped.start()
    with HostClient(shipped.url("agentd")) as client:
        client.enqueue(START, host=HOST, request_id="r0")
    with shipped.observer() as admin:
        assert admin.lrange(KEYS.queue, 0, -1) == [f"{HOST}_r0".encode(), f"{HOST}_r1".encode()]


def test_a_replica_and_a_sentinel_log_in_as_users_of_their_own(
    program: str, directory: Path
) -> None:
    """The replica has everything, and the sentinel makes it the master when that is killed."""
    master_port, replica_port, port = free_ports(3)
    servers = {}
    for name in ("master", "replica"):
        (directory / name).mkdir()
        servers[name] = ShippedRedis(program, directory / name, HOST)
    master, replica = servers["master"], servers["replica"]
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor hostd 127.0.0.1 {master_port} 1\n"
        "sentinel auth-user hostd sentinel\n"
        f"sentinel auth-pass hostd {master.password('sentinel')}\n"
        "sentinel down-after-milliseconds hostd 300\nsentinel failover-timeout hostd 3000\n"
    )
    # One set of passwords: after a failover each may be the other's master.
    shutil.copytree(master.users.parent, replica.users.parent, dirs_exist_ok=True)
    login = ("--masteruser", "replica", "--masterauth", master.password("replica"))
    master.start(*login, port=master_port)
    replica.start(*login, "--replicaof", f"127.0.0.1 {master_port}", port=replica_port)
    sentinel = subprocess.Popen(
        [program, str(config), "--sentinel"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with replica.observer() as copy, Redis(port=port) as watcher:
            until(lambda: copy.info("replication").get("master_link_status") == "up")
            until(lambda: watcher.sentinel_masters()["hostd"]["num-slaves"] == 1)
            carries_out(master)
            written = master.content()
            until(lambda: replica.content() == written)
            master.end(signal.SIGKILL)
            until(lambda: copy.info("replication")["role"] == "master")
        with HostClient(replica.url("agentd")) as client:
            client.enqueue(START, host=HOST, request_id="after")
        written = replica.content()
        replica.end(signal.SIGKILL)
        replica.start(*login, port=replica_port)
        assert replica.content() == written
        assert master.critical() + replica.critical() == []
    finally:
        sentinel.kill()
        sentinel.wait()
        for server in servers.values():
            server.end(signal.SIGKILL)
