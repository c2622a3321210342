"""A client that can write to Redis cannot control the root worker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from enqueue import HostClient, keys, signing
from enqueue.errors import EnqueueError
from enqueue.requests import Ping, StopInstance
from enqueue.results import Done, Failed, Pong
from tests.fixtures import canary, poison
from tests.fixtures.netns import ip
from tests.fixtures.poison import HARMLESS, REFUSED, Poison, Writer
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import BOUND_S, HOST, HostdProcess, eventually, ids

pytestmark = [pytest.mark.redis, pytest.mark.root]


@dataclass(frozen=True, slots=True)
class Target:
    """A running host that takes only signed requests, and a writer to its Redis."""

    hostd: HostdProcess
    client: HostClient
    writer: Writer
    canary: Path
    webhook: socket.socket

    def push(self, id_: bytes | str) -> None:
        """Puts the id into the host's queue."""
        self.writer.redis.rpush(self.writer.keys.queue, id_)

    def quarantine(self) -> list[dict[str, Any]]:
        """The host's quarantine list."""
        found: Any = self.writer.redis.lrange(self.writer.keys.quarantine, 0, -1)
        return [json.loads(entry) for entry in found]

    def taken(self) -> int:
        """The length of the host's intermediate list."""
        return self.writer.redis.llen(self.writer.keys.intermediate)

    def worker_key(self) -> str:
        """The key under which the host's worker is registered."""
        (key,) = self.writer.redis.keys(f"rq:worker:{HOST}_*")
        return str(key, "ascii")  # type: ignore[arg-type]  # bytes, without decode_responses

    def serves(self) -> None:
        """Checks that a valid request is carried out, and that nothing reached the canary."""
        ref = self.hostd.instance("i-0000600d")
        stop = self.client.enqueue(StopInstance(**ids(ref)), host=HOST)
        ping = self.client.enqueue(Ping(), host=HOST)
        assert isinstance(stop.wait(BOUND_S), Done)
        assert isinstance(ping.wait(BOUND_S), Pong)
        eventually(lambda: self.taken() == 0, "the intermediate list is empty")
        assert self.hostd.runs()
        assert not self.canary.exists()
        with pytest.raises(BlockingIOError):
            self.webhook.accept()


@pytest.fixture(scope="module")
def shared_target(
    redis_process: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """One host for all tests, so that damage by one poison is seen by the next."""
    if os.geteuid() != 0:
        pytest.skip("needs root: hostd run")
    redis_process.reset()
    song = tmp_path_factory.mktemp("canary") / "song"
    settings = {"security": {"insecure": False}}
    with pytest.MonkeyPatch.context() as patch, HostdProcess(redis_process, settings) as hostd:
        patch.setenv(canary.VARIABLE, str(song))
        private = hostd.base / "agentd.key"
        signing.generate("agentd", private=private, public=hostd.base / "keys" / "agentd.json")
        signer = signing.load_signer(private)
        with hostd.namespace.entered():
            ip("link set lo up")
            webhook = socket.create_server(("127.0.0.1", 9))
        webhook.setblocking(False)
        hostd.start()
        writer = Writer(redis_process.client(), HOST, signer)
        with webhook:
            yield Target(hostd, hostd.client(signer=signer), writer, song, webhook)
        redis_process.close_clients()


@pytest.fixture
def target(shared_target: Target) -> Iterator[Target]:
    """That host with an empty quarantine list; after the test it must still serve."""
    shared_target.writer.redis.delete(shared_target.writer.keys.quarantine)
    shared_target.canary.unlink(missing_ok=True)
    yield shared_target
    shared_target.serves()


def test_the_canary_detects_what_a_stock_worker_executes(target: Target) -> None:
    stock = Queue("stock", connection=target.writer.redis, serializer=JSONSerializer)
    stock.enqueue(poison.SING)
    command = ["worker", "--burst", "--quiet", "--worker-class", "rq.SimpleWorker"]
    options = ["--serializer", "rq.serializers.JSONSerializer"]
    url = f"unix://{target.hostd.redis.socket}"
    rq = [sys.executable, "-m", "rq.cli", *command, *options, "--url", url, "stock"]
    subprocess.run(rq, check=True, timeout=BOUND_S)
    target.writer.redis.delete("rq:workers")
    assert target.canary.exists()
    target.canary.unlink()


@pytest.mark.parametrize("bad", REFUSED, ids=lambda bad: bad.name)
def test_an_invalid_request_is_quarantined_with_a_reason(target: Target, bad: Poison) -> None:
    assert bad.reason is not None
    target.push(bad.plant(target.writer))
    eventually(lambda: len(target.quarantine()) == 1, "it is quarantined")
    (entry,) = target.quarantine()
    assert bad.reason in entry["reason"]
    assert entry["reason"].isprintable()
    assert entry["job_id"].isprintable()
    assert entry["job_id"].isascii()
    assert len(entry["job_id"]) <= 100


@pytest.mark.parametrize("bad", HARMLESS, ids=lambda bad: bad.name)
def test_a_request_is_answered_whatever_else_its_job_holds(target: Target, bad: Poison) -> None:
    id_ = str(bad.plant(target.writer))
    target.push(id_)
    eventually(lambda: target.writer.redis.type(keys.results(id_)) == b"stream", "an answer")
    assert target.quarantine() == []
    assert target.writer.redis.hget(keys.job(id_), "status") == b"finished"


def test_a_wrongly_signed_request_is_answered_to_its_caller(target: Target, tmp_path: Path) -> None:
    signing.generate("agentd", private=tmp_path / "private", public=tmp_path / "public")
    impostor = target.hostd.client(signer=signing.load_signer(tmp_path / "private"))
    ticket = impostor.enqueue(Ping(), host=HOST)
    result = ticket.wait(BOUND_S)
    assert isinstance(result, Failed)
    assert (result.code, result.failure_class) == ("rejected/bad_signature", "rejected")
    assert "keys_dir" in result.hint
    (entry,) = target.quarantine()
    assert entry["job_id"] == ticket.job_id


def test_all_poison_at_once_stops_neither_a_running_nor_a_starting_hostd(target: Target) -> None:
    everything = [bad.plant(target.writer) for bad in (*REFUSED, *HARMLESS)]
    target.writer.redis.rpush(target.writer.keys.queue, *everything)
    target.serves()
    assert len(target.quarantine()) == len(REFUSED)


def test_poison_that_a_killed_worker_had_taken_does_not_stop_the_next(target: Target) -> None:
    target.hostd.kill()
    everything = [bad.plant(target.writer) for bad in (*REFUSED, *HARMLESS)]
    target.writer.redis.rpush(target.writer.keys.intermediate, *everything)
    target.hostd.start()
    target.serves()
    assert len(target.quarantine()) == len(REFUSED)
    target.hostd.restart()
    target.serves()
    assert len(target.quarantine()) == len(REFUSED)


def test_commands_by_pubsub_have_no_effect(target: Target) -> None:
    channel = target.worker_key().replace("rq:worker:", "rq:pubsub:")
    for command in ("shutdown", "kill-horse", "stop-job"):
        message = {"command": command, "job_id": "x", "created_at": 1}
        assert target.writer.redis.publish(channel, json.dumps(message)) == 0


def test_suspending_rq_has_no_effect(target: Target) -> None:
    target.writer.redis.set("rq:suspended", 1)
    target.serves()
    target.writer.redis.delete("rq:suspended")


@pytest.mark.parametrize(
    "name",
    [
        *("rq:workers", f"rq:workers:hostd:{HOST}", f"rq:wip:hostd:{HOST}"),
        *(f"rq:finished:hostd:{HOST}", f"rq:failed:hostd:{HOST}", f"rq:deferred:hostd:{HOST}"),
        *(f"rq:queue:hostd:{HOST}:quarantine", f"hostd:events:{HOST}"),
        *(f"rq:queue:hostd:{HOST}", f"rq:queue:hostd:{HOST}:intermediate"),
    ],
)
def test_a_key_of_hostd_that_holds_something_else_does_not_block_the_host(
    target: Target, name: str
) -> None:
    kind = "hash" if name.startswith("rq:w") or name.endswith(":intermediate") else "string"
    target.writer.redis.delete(name)
    if kind == "hash":
        target.writer.redis.hset(name, "x", "y")
    else:
        target.writer.redis.set(name, "y")
    try:
        eventually(lambda: _answers(target), "hostd answers")
        target.hostd.restart()
        target.serves()
    finally:
        target.writer.redis.delete(name)


def _answers(target: Target) -> bool:
    """Whether a Ping is answered; the client's own push may fail while the queue is not a list."""
    try:
        ticket = target.client.enqueue(Ping(), host=HOST)
        return isinstance(ticket.wait(5), Pong)
    except EnqueueError:
        return False


def test_planted_maintenance_keys_and_schedules_are_ignored(target: Target) -> None:
    redis, keys_ = target.writer.redis, target.writer.keys
    id_ = target.writer.genuine("scheduled", failure_callback_name=poison.SING)
    redis.set(f"rq:clean_registries:{keys_.queue_name}", 1)
    redis.zadd(f"rq:scheduled:{keys_.queue_name}", {id_: 1.0})
    redis.zadd(f"rq:ready:{keys_.queue_name}", {id_: 1.0})
    redis.hset(f"rq:execution:{id_}:x", mapping={"id": "x", "created_at": "never"})
    target.serves()
    assert redis.exists(keys.results(id_)) == 0


def test_a_worker_key_planted_again_and_again_does_not_end_the_worker(target: Target) -> None:
    worker = target.worker_key()
    target.hostd.kill()
    target.writer.redis.delete(worker)
    target.writer.redis.rpush(worker, "x")
    target.hostd.start()
    target.serves()
