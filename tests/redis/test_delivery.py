"""Delivery at least once, effect once, and a result that never changes: with the real process."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import pytest
import redis
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from enqueue import keys
from enqueue.client import Ticket
from enqueue.requests import (
    DestroyInstance,
    InstanceRequest,
    Ping,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from enqueue.results import Done, Failed, Pong
from tests.fixtures.asking import (
    answers,
    ask,
    done,
    failed,
    instance_locked,
    status,
    waits_for_lock,
)
from tests.fixtures.worker import BOUND_S, HOST, HostdMaker, HostdProcess, eventually, ids

pytestmark = [pytest.mark.redis, pytest.mark.root]

HASTY = {"lock_timeout_s": 0.05}


def taken_together(hostd: HostdProcess) -> None:
    """Moves the queue to the intermediate list, as a killed worker leaves it: one batch."""
    server = hostd.redis.client()
    while server.lmove(hostd.keys.queue, hostd.keys.intermediate) is not None:
        pass


def stock_job(server: redis.Redis, ticket: Ticket) -> Job:
    """The job as RQ's own tools read it."""
    return Job.fetch(ticket.job_id, connection=server, serializer=JSONSerializer)


# ---------------------------------------------------------------- duplicates


def test_an_id_enqueued_twice_runs_once_and_both_callers_get_the_result(
    hostd: HostdProcess,
) -> None:
    request = StartInstance(**ids(hostd.instance("i-00000001")))
    client = hostd.client()
    first, second = [client.enqueue(request, host=HOST, request_id="one") for _ in range(2)]
    assert done(first) == done(second)
    assert done(first).changed
    assert answers(hostd.redis.client(), first) == 1


def test_an_id_twice_in_the_list_runs_once(make_hostd: HostdMaker) -> None:
    hostd = make_hostd()
    server = hostd.redis.client()
    ticket = ask(hostd.client(), StartInstance, hostd.instance("i-00000001"))
    server.rpush(hostd.keys.queue, ticket.job_id, ticket.job_id)
    server.rpush(hostd.keys.intermediate, ticket.job_id, ticket.job_id)
    hostd.start()
    assert done(ticket).changed
    eventually(lambda: server.llen(hostd.keys.intermediate) == 0, "all is told")
    assert hostd.rows("SELECT runs, attempts FROM requests") == [(1, 1)]


def test_a_finished_job_delivered_again_gives_the_first_result_again(hostd: HostdProcess) -> None:
    server = hostd.redis.client()
    ticket = ask(hostd.client(), StartInstance, hostd.instance("i-00000001"))
    first = done(ticket)
    server.rpush(hostd.keys.queue, ticket.job_id)
    eventually(lambda: answers(server, ticket) == 2, "it is answered again")
    again = hostd.client().ticket(ticket.request_id, host=HOST).wait(BOUND_S)
    assert isinstance(again, Done)
    assert again.replayed
    assert msgspec.structs.replace(again, replayed=False) == first
    assert hostd.rows("SELECT runs FROM requests") == [(1,)]


def test_a_request_id_that_names_another_request_is_rejected_and_the_first_result_stays(
    hostd: HostdProcess,
) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    client = hostd.client()
    ticket = client.enqueue(StopInstance(**ids(ref)), host=HOST, request_id="mine")
    done(ticket)
    eventually(lambda: hostd.state_of("mine") == "published", "it is published")
    before = hostd.rows("SELECT state, digest, result FROM requests")
    other = client.enqueue(DestroyInstance(**ids(ref), wipe_volumes=True), host=HOST)
    done(other)
    data = hostd.redis.client().hget(keys.job(other.job_id), "data")
    assert isinstance(data, bytes)
    forged = data.replace(other.request_id.encode(), b"mine")
    server.hset(keys.job(ticket.job_id), "data", forged)
    server.rpush(hostd.keys.queue, ticket.job_id)
    eventually(lambda: answers(server, ticket) == 2, "it is answered")
    result = client.ticket("mine", host=HOST).wait(BOUND_S)
    assert isinstance(result, Failed)
    assert result.code == "rejected/request_id_reused"
    assert before[0] in hostd.rows("SELECT state, digest, result FROM requests")


# ---------------------------------------------------------------- deleted, expired


def test_a_deleted_job_never_runs_and_the_next_one_does(make_hostd: HostdMaker) -> None:
    hostd = make_hostd()
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    start = ask(hostd.client(), StartInstance, ref)
    server.delete(keys.job(start.job_id))
    hostd.start()
    assert not done(ask(hostd.client(), StopInstance, ref)).changed
    assert hostd.state_of(start.request_id) is None
    assert server.exists(keys.job(start.job_id)) == 0


def test_a_job_deleted_while_it_runs_still_gets_its_result(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        stop = ask(hostd.client(), StopInstance, ref)
        waits_for_lock(hostd, stop)
        server.delete(keys.job(stop.job_id))
    done(stop)
    assert status(server, stop) == "finished"
    assert server.lrange(hostd.keys.quarantine, 0, -1) == []


def past(hostd: HostdProcess, ticket: Ticket, *, seconds: int) -> None:
    """Moves the times of the ticket's request that far into the past."""
    server = hostd.redis.client()
    body = ticket._run.sealed.body
    data = server.hget(keys.job(ticket.job_id), "data")
    assert isinstance(data, bytes)
    for moment in (body.issued_at_ms, body.not_after_ms):
        data = data.replace(str(moment).encode(), str(moment - seconds * 1000).encode())
    server.hset(keys.job(ticket.job_id), "data", data)


def test_an_expired_request_is_rejected_and_supersedes_nothing(make_hostd: HostdMaker) -> None:
    hostd = make_hostd()
    ref = hostd.instance("i-00000001")
    start = ask(hostd.client(), StartInstance, ref)
    destroy = ask(hostd.client(), DestroyInstance, ref)
    past(hostd, destroy, seconds=25 * 3600)
    taken_together(hostd)
    hostd.start()
    assert failed(destroy).code == "rejected/expired"
    assert done(start).state == "running"


def test_a_retry_of_an_accepted_request_is_never_too_late(hostd: HostdProcess) -> None:
    ref = hostd.instance("i-00000001")
    wake = ask(hostd.client(), WakeInstance, ref)
    assert failed(wake).code == "conflict/no_image"
    past(hostd, wake, seconds=25 * 3600)
    assert failed(wake.retry()).code == "conflict/no_image"


# ---------------------------------------------------------------- run again


def requeued(hostd: HostdProcess, ticket: Ticket) -> Ticket:
    """Requeues the job as RQ does; returns the ticket of the new run."""
    server = hostd.redis.client()
    name = hostd.keys.queue_name
    FailedJobRegistry(name, connection=server, serializer=JSONSerializer).requeue(ticket.job_id)
    return hostd.client().ticket(ticket.request_id, host=HOST)


def retried(_hostd: HostdProcess, ticket: Ticket) -> Ticket:
    """Retries as `hostctl retry` does."""
    return ticket.retry()


@pytest.mark.parametrize("again", [requeued, retried])
def test_a_failed_request_runs_again_on_request(hostd: HostdProcess, again: Any) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    sleep = ask(hostd.client(), SleepInstance, ref)
    assert failed(sleep).code == "conflict/not_running"
    again(hostd, sleep)
    eventually(lambda: answers(server, sleep) == 2, "it has run again")
    assert hostd.rows("SELECT runs FROM requests") == [(2,)]
    assert not failed(hostd.client().ticket(sleep.request_id, host=HOST)).replayed


@pytest.mark.parametrize("again", [requeued, retried])
def test_a_second_run_never_undoes_a_newer_decision(hostd: HostdProcess, again: Any) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    sleep = ask(hostd.client(), SleepInstance, ref)
    failed(sleep)
    done(ask(hostd.client(), StopInstance, ref))
    again(hostd, sleep)
    eventually(lambda: answers(server, sleep) == 2, "it is answered again")
    assert failed(hostd.client().ticket(sleep.request_id, host=HOST)).code == "conflict/overtaken"


def test_a_retry_right_after_the_result_is_never_lost(hostd: HostdProcess) -> None:
    ticket = ask(hostd.client(), SleepInstance, hostd.instance("i-00000001"))
    for _ in range(100):
        assert not failed(ticket).replayed
        ticket = ticket.retry()
    assert not failed(ticket).replayed
    assert hostd.rows("SELECT runs FROM requests") == [(101,)]


# ---------------------------------------------------------------- supersession


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        (DestroyInstance, (StartInstance, StopInstance, SleepInstance, WakeInstance)),
        (StopInstance, (StartInstance, SleepInstance, WakeInstance)),
    ],
)
def test_a_newer_request_supersedes_waiting_ones(
    hostd: HostdProcess, newer: type[InstanceRequest], older: tuple[type[InstanceRequest], ...]
) -> None:
    server, ref, client = hostd.redis.client(), hostd.instance("i-00000001"), hostd.client()
    with instance_locked(hostd, ref):
        # Runs already, so it is left alone.
        running = ask(client, SleepInstance, ref)
        waits_for_lock(hostd, running)
        waiting = [ask(client, kind, ref) for kind in older]
        last = ask(client, newer, ref)
        for ticket in waiting:
            assert failed(ticket).code == "conflict/superseded"
            assert status(server, ticket) == "canceled"
            assert server.zscore(hostd.keys.canceled, ticket.job_id) is not None
    assert failed(running).code == "conflict/not_running"
    done(last)


# ---------------------------------------------------------------- kills


def test_a_worker_killed_between_taking_and_accepting_loses_nothing(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with closing(sqlite3.connect(hostd.ledger, isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        ticket = ask(hostd.client(), StartInstance, ref)
        eventually(lambda: server.llen(hostd.keys.intermediate) == 1, "it is taken")
        hostd.kill()
        blocker.execute("ROLLBACK")
    assert hostd.state_of(ticket.request_id) is None
    hostd.start()
    assert done(ticket).changed
    assert answers(server, ticket) == 1


@pytest.mark.parametrize("step", ["bridge_present", "data_disk_present", "vmm_spawned"])
def test_a_worker_killed_in_a_step_ends_the_request_once(hostd: HostdProcess, step: str) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    ticket = ask(hostd.client(), StartInstance, ref)
    begun = "SELECT 1 FROM journal WHERE step = ?"
    eventually(lambda: hostd.rows(begun, step) != [], f"{step} has begun")
    hostd.kill()
    hostd.start()
    result = done(ticket)
    assert (result.changed, result.state) == (True, "running")
    assert answers(server, ticket) == 1
    eventually(lambda: server.llen(hostd.keys.intermediate) == 0, "it is published")
    assert not done(ask(hostd.client(), StartInstance, ref)).changed


def test_a_worker_killed_after_deciding_publishes_the_decision(hostd: HostdProcess) -> None:
    server, ref = hostd.redis.client(), hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        ticket = ask(hostd.client(), StopInstance, ref)
        waits_for_lock(hostd, ticket)
        hostd.redis.freeze()
    eventually(lambda: hostd.state_of(ticket.request_id) == "decided", "it is decided")
    hostd.kill()
    hostd.redis.restart()
    decided = hostd.rows("SELECT result, attempts FROM requests")
    hostd.start()
    assert not done(ticket).replayed
    assert answers(server, ticket) == 1
    assert hostd.state_of(ticket.request_id) == "published"
    assert hostd.rows("SELECT result, attempts FROM requests") == decided


# ---------------------------------------------------------------- Redis away


def test_requests_that_end_while_redis_is_down_are_published_when_it_is_back(
    hostd: HostdProcess,
) -> None:
    hostd.redis.client().config_set("appendfsync", "always")
    refs = [hostd.instance(f"i-0000000{n}") for n in range(3)]
    client = hostd.client()
    with instance_locked(hostd, refs[0]), instance_locked(hostd, refs[1]):
        tickets = [ask(client, StopInstance, ref) for ref in refs[:2]]
        for ticket in tickets:
            waits_for_lock(hostd, ticket)
        hostd.redis.stop()
    for ticket in tickets:
        eventually(lambda: hostd.state_of(ticket.request_id) == "decided", "it is decided")  # noqa: B023  called at once
    hostd.redis.start()
    for ticket in tickets:
        assert not done(ticket).replayed
    assert isinstance(client.enqueue(Ping(), host=HOST).wait(BOUND_S), Pong)
    done(ask(client, StopInstance, refs[2]))
    assert hostd.runs()


# ---------------------------------------------------------------- events


def test_events_have_no_gaps_and_one_entry_a_change_and_an_end(hostd: HostdProcess) -> None:
    ref, client = hostd.instance("i-00000001"), hostd.client()
    life = (StartInstance, SleepInstance, WakeInstance, StopInstance, StopInstance, DestroyInstance)
    for kind in life:
        done(ask(client, kind, ref))
        if kind is WakeInstance:
            hostd.restart()
    failed(ask(client, StartInstance, ref))
    entries: Any = hostd.redis.client().xrange(hostd.keys.events)
    # A killed worker may have published what it could not mark as such: at least once.
    unique = {int(fields[b"seq"]): fields[b"event"] for _, fields in entries}
    assert list(unique) == list(range(1, len(unique) + 1))
    events = list(unique.values())
    ends = [event for event in events if b'"event":"request"' in event]
    changes = [event for event in events if b'"event":"instance"' in event]
    assert len(ends) == len(life) + 1
    assert [event.split(b'"after":"')[1].split(b'"')[0] for event in changes] == [
        b"running", b"sleeping", b"running", b"stopped", b"destroyed",
    ]  # fmt: skip


# ---------------------------------------------------------------- retries


def test_a_transient_failure_is_retried_in_its_place_while_others_run(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(worker=HASTY, retry={"first_s": 0.05, "cap_s": 0.1, "attempts": 100})
    hostd.start()
    busy, free, client = hostd.instance("i-00000001"), hostd.instance("i-00000002"), hostd.client()
    with instance_locked(hostd, busy):
        first = ask(client, WakeInstance, busy)
        second = ask(client, SleepInstance, busy)
        attempts = "SELECT attempts FROM requests WHERE request_id = ?"
        eventually(lambda: hostd.rows(attempts, first.request_id) > [(2,)], "it is retried")
        done(ask(client, StopInstance, free))
        assert hostd.rows(attempts, second.request_id) == [(0,)]
    assert failed(first).attempts > 2
    assert failed(second).attempts == 1
    order = hostd.rows("SELECT request_id FROM requests ORDER BY decided_at_ms, seq")
    assert order.index((first.request_id,)) < order.index((second.request_id,))


def test_a_request_whose_retries_are_used_up_fails_as_transient(make_hostd: HostdMaker) -> None:
    hostd = make_hostd(worker=HASTY, retry={"first_s": 0.01, "cap_s": 0.01, "attempts": 3})
    hostd.start()
    ref = hostd.instance("i-00000001")
    with instance_locked(hostd, ref):
        result = failed(ask(hostd.client(), StopInstance, ref))
    assert (result.code, result.attempts) == ("transient/lock_timeout", 3)
