"""Cancelling ends a waiting request in bounded time and never interrupts a running one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from enqueue import keys
from enqueue.client import Ticket
from enqueue.requests import DestroyInstance, StartInstance, StopInstance, WakeInstance
from enqueue.results import Failed
from tests.fixtures.asking import (
    answers,
    ask,
    done,
    failed,
    instance_locked,
    status,
    taken,
    waits_for_lock,
)
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from worker.queue.registries import Registries

pytestmark = [pytest.mark.redis, pytest.mark.root]

SOON_S = 15.0  # hostd looks once a second; machines that run tests can be slow
PATIENT = {"first_s": 600, "cap_s": 600, "attempts": 5}


def by_ticket(ticket: Ticket, _server: redis.Redis) -> None:
    """Cancels as `hostctl cancel` does."""
    assert ticket.cancel() == "cancelled"


def by_rq(ticket: Ticket, server: redis.Redis) -> None:
    """Cancels as RQ's own tools do."""
    Job.fetch(ticket.job_id, connection=server, serializer=JSONSerializer).cancel()


def by_status(ticket: Ticket, server: redis.Redis) -> None:
    """Sets only the job's status, the least that a tool can do."""
    server.hset(keys.job(ticket.job_id), "status", "canceled")


Cancel = Callable[[Ticket, redis.Redis], None]
either = pytest.mark.parametrize("cancel", [by_ticket, by_rq])


def cancelled_for_good(hostd: HostdProcess, ticket: Ticket) -> None:
    """Checks that the request ended as cancelled, in the ledger and in Redis, with an event."""
    server = hostd.redis.client()
    result = ticket.wait(SOON_S)
    assert isinstance(result, Failed)
    assert result.code == "conflict/cancelled"
    assert status(server, ticket) == "canceled"
    assert server.zscore(hostd.keys.canceled, ticket.job_id) is not None
    recorded = "SELECT code, state FROM requests WHERE request_id = ?"
    eventually(
        lambda: hostd.rows(recorded, ticket.request_id) == [("conflict/cancelled", "published")],
        "published",
    )
    events: Any = server.xrange(hostd.keys.events)
    ended = [one for _, one in events if ticket.request_id.encode() in one[b"event"]]
    assert len(ended) == 1
    assert b'"code":"conflict/cancelled"' in ended[0][b"event"]


@either
def test_an_untaken_request_ends_when_the_host_starts(
    make_hostd: HostdMaker, cancel: Cancel
) -> None:
    hostd = make_hostd()
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    start = ask(hostd.client(), StartInstance, ref)
    cancel(start, server)
    assert server.llen(hostd.keys.queue) == 0
    hostd.start()
    cancelled_for_good(hostd, start)
    assert failed(start).attempts == 0


@either
def test_a_request_that_waits_for_its_turn_ends_at_once_and_the_others_go_on(
    hostd: HostdProcess, cancel: Cancel
) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    client = hostd.client()
    with instance_locked(hostd, ref):
        stop, start, wake = [
            ask(client, kind, ref) for kind in (StopInstance, StartInstance, WakeInstance)
        ]
        waits_for_lock(hostd, stop)
        taken(hostd, start, wake)
        cancel(start, server)
        cancelled_for_good(hostd, start)
        assert hostd.state_of(stop.request_id) == hostd.state_of(wake.request_id) == "accepted"
    assert failed(wake).code == "conflict/no_image"
    assert not done(stop).changed
    assert answers(server, start) == 1
    eventually(lambda: server.llen(hostd.keys.intermediate) == 0, "all is told")


@either
def test_a_request_that_waits_for_its_next_attempt_ends_at_once(
    make_hostd: HostdMaker, cancel: Cancel
) -> None:
    hostd = make_hostd(worker={"lock_timeout_s": 0.05}, retry=PATIENT)
    hostd.start()
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        start = ask(hostd.client(), StartInstance, ref)
        eventually(lambda: server.zcard(hostd.keys.deferred) == 1, "it is put off")
    assert status(server, start) == "queued"
    cancel(start, server)
    cancelled_for_good(hostd, start)
    assert failed(start).attempts == 1
    assert done(ask(hostd.client(), StartInstance, ref)).changed


def test_a_status_alone_ends_a_request_when_its_turn_comes(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    client = hostd.client()
    with instance_locked(hostd, ref):
        stop, start = ask(client, StopInstance, ref), ask(client, StartInstance, ref)
        waits_for_lock(hostd, stop)
        taken(hostd, start)
        by_status(start, server)
    cancelled_for_good(hostd, start)


def test_a_running_request_finishes_and_its_caller_learns_so(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        start = ask(hostd.client(), StartInstance, ref)
        waits_for_lock(hostd, start)
        assert start.cancel() == "running"
    assert done(start).state == "running"
    assert status(server, start) == "finished"
    assert start.cancel() == "ended"


def test_rqs_own_cancel_does_not_interrupt_a_running_request(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        start = ask(hostd.client(), StartInstance, ref)
        waits_for_lock(hostd, start)
        by_rq(start, server)
        eventually(lambda: server.zcard(hostd.keys.canceled) == 0, "hostd has looked")
    assert done(start).state == "running"
    eventually(lambda: status(server, start) == "finished", "it shows as finished")
    eventually(lambda: server.llen(hostd.keys.intermediate) == 0, "it is published")


def test_an_ended_request_that_rq_cancels_shows_its_result_again(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    stop = ask(hostd.client(), StopInstance, ref)
    done(stop)
    by_rq(stop, server)
    eventually(lambda: status(server, stop) == "finished", "it shows as finished")
    assert done(hostd.client().ticket(stop.request_id, host=HOST)).replayed


def test_a_cancelled_destroy_supersedes_nothing(make_hostd: HostdMaker) -> None:
    hostd = make_hostd()
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    start = ask(hostd.client(), StartInstance, ref)
    destroy = ask(hostd.client(), DestroyInstance, ref)
    by_status(destroy, server)
    hostd.start()
    assert failed(destroy).code == "conflict/cancelled"
    assert done(start).state == "running"


def test_a_cancelled_request_sent_again_gives_the_same_result(
    hostd: HostdProcess,
) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    client = hostd.client()
    with instance_locked(hostd, ref):
        stop = ask(client, StopInstance, ref)
        waits_for_lock(hostd, stop)
        start = client.enqueue(StartInstance(**ids(ref)), host=HOST, request_id="same")
        taken(hostd, start)
        by_ticket(start, server)
        cancelled_for_good(hostd, start)
        server.flushall()
        again = failed(client.enqueue(StartInstance(**ids(ref)), host=HOST, request_id="same"))
    assert (again.code, again.replayed) == ("conflict/cancelled", True)


def test_a_cancellation_survives_a_kill(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    client = hostd.client()
    with instance_locked(hostd, ref):
        stop, start = ask(client, StopInstance, ref), ask(client, StartInstance, ref)
        waits_for_lock(hostd, stop)
        taken(hostd, start)
        hostd.kill()
        by_ticket(start, server)
        hostd.start()
        cancelled_for_good(hostd, start)
    done(stop)


@pytest.mark.parametrize("planted", ["list", "members"])
def test_foreign_entries_in_the_canceled_registry_stop_nothing(
    hostd: HostdProcess, planted: str
) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    if planted == "list":
        server.rpush(hostd.keys.canceled, "x")
    else:
        members: dict[Any, float] = {b"\xff\xfe": 1.0, b"host-b_x": 2.0, b"host-a_no-such": 3.0}
        server.zadd(hostd.keys.canceled, members)
    eventually(lambda: server.exists(hostd.keys.canceled) == 0, "hostd has looked")
    assert not done(ask(hostd.client(), StopInstance, ref)).changed
    assert server.llen(hostd.keys.quarantine) == 0


def test_a_job_published_while_hostd_looks_stays_registered(redis_server: RedisServer) -> None:
    server, host_keys = redis_server.client(), keys.HostKeys(HOST)
    id_, told_until = keys.job_id(HOST, "r-1"), 4_000_000_000
    server.hset(keys.job(id_), "status", "canceled")
    server.zadd(host_keys.canceled, {id_: 1})

    @contextmanager
    def paused() -> Iterator[None]:
        server.zadd(host_keys.canceled, {id_: told_until})  # the last telling before it
        yield

    assert Registries(server, host_keys, paused=paused).take_cancelled() == []
    assert server.zscore(host_keys.canceled, id_) == told_until
    server.zadd(host_keys.canceled, {id_: 1})
    assert Registries(server, host_keys).take_cancelled() == [id_.encode()]
    assert server.zscore(host_keys.canceled, id_) is None
