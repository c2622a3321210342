"""SIGTERM at a busy hostd: it is gone within its time, and nothing is stranded."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from enqueue import HostClient
from enqueue.requests import SleepInstance, StartInstance
from enqueue.results import Done, Result
from tests.fixtures.recovery import document, started
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from worker.daemon.hostd import STOP_SPARE_S
from worker.host.firecracker.jail.jail import find_jail
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0
SPARE_S = STOP_SPARE_S + 2.0  # BLMOVE lasts a second, and a slow machine
SHORT = {"stop_timeout_s": 1.0}


def slow_down(process: HostdProcess, ref: InstanceRef, seconds: float) -> None:
    """The stand-in's snapshots take that much longer."""
    jail = find_jail(process.layout.jail_base(ref), ref.instance_id)
    assert jail is not None
    told = {"PUT /snapshot/create": {"delay_ms": seconds * 1000}}
    new = process.base / "simulate.json"
    new.write_text(json.dumps({"routes": told}))
    new.rename(jail.root / "simulate.json")


def stopped(process: HostdProcess, timeout_s: float) -> None:
    """SIGTERM, and it ends well within its time."""
    began = time.monotonic()
    assert process.stop() == 0, process.said()
    assert time.monotonic() - began < timeout_s + SPARE_S
    assert "CRITICAL" not in process.said(), process.said()


def counts(process: HostdProcess, request_id: str) -> tuple[str, int, int, int]:
    """State, attempts, whether one is under way, crashes."""
    query = "SELECT state, attempts, attempting, crashes FROM requests WHERE request_id = ?"
    (row,) = process.rows(query, request_id)
    return row


def under_way(process: HostdProcess, request_id: str, step: str) -> bool:
    """Whether the request is in that step."""
    query = "SELECT 1 FROM journal WHERE request_id = ? AND step = ? AND finished_at_ms IS NULL"
    return bool(process.rows(query, request_id, step))


def ended_well(result: Result) -> Done:
    assert isinstance(result, Done), result
    return result


def test_a_sleep_that_writes_its_image_is_let_end(hostd: HostdProcess) -> None:
    client = hostd.client()
    ref = started(hostd, client, "i-0000000a")
    slow_down(hostd, ref, 2.0)
    sleep = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    eventually(lambda: under_way(hostd, sleep.request_id, "image_sealed"), "it writes")
    later = client.enqueue(StartInstance(**ids(hostd.instance("i-0000000b"))), host=HOST)
    eventually(lambda: hostd.state_of(later.request_id) is not None, "the other is taken")
    stopped(hostd, 60.0)
    assert counts(hostd, sleep.request_id)[0] == "published"
    assert ended_well(sleep.wait(1.0)).attempts == 1
    assert document(hostd, ref)["status"] == "sleeping"
    hostd.start()
    ended_well(later.wait(WAIT_S))


def test_a_sleep_that_outlasts_the_timeout_is_finished_by_the_next_start(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(worker=SHORT)
    hostd.start()
    client = hostd.client()
    ref = started(hostd, client, "i-0000000a")
    slow_down(hostd, ref, 4.0)
    sleep = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    eventually(lambda: under_way(hostd, sleep.request_id, "image_sealed"), "it writes")
    stopped(hostd, SHORT["stop_timeout_s"])
    assert counts(hostd, sleep.request_id) == ("accepted", 0, 0, 0)
    hostd.start()
    assert ended_well(sleep.wait(WAIT_S)).attempts == 1
    assert document(hostd, ref)["status"] == "sleeping"


def test_a_start_that_boots_is_finished_by_the_next_start(make_hostd: HostdMaker) -> None:
    hostd = make_hostd(worker=SHORT)
    hostd.start()
    client = hostd.client()
    started(hostd, client, "i-0000000b")  # the stand-in's directory is made
    simulated = hostd.runtime / "simulator" / "simulate.json"
    simulated.write_text(json.dumps({"routes": {"PUT /actions": {"delay_ms": 4000}}}))
    start = client.enqueue(StartInstance(**ids(hostd.instance("i-0000000a"))), host=HOST)
    eventually(lambda: under_way(hostd, start.request_id, "guest_booted"), "it boots")
    stopped(hostd, SHORT["stop_timeout_s"])
    assert counts(hostd, start.request_id) == ("accepted", 0, 0, 0)
    simulated.unlink()
    hostd.start()
    assert ended_well(start.wait(WAIT_S)).attempts == 1


@contextmanager
def held(process: HostdProcess, ref: InstanceRef) -> Iterator[None]:
    """Somebody else works on the instance."""
    path = process.lock_file(ref.instance_id)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def test_what_backs_off_waits_for_its_turn_or_stands_in_the_queue_is_carried_out_later(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(
        worker={"queue_limit": 4, "lock_timeout_s": 0.2, "threads": 2},
        retry={"first_s": 2.0, "attempts": 20, "cap_s": 2.0},
    )
    hostd.start()
    client: HostClient = hostd.client()
    ref = started(hostd, client, "i-0000000a")
    others = [hostd.instance(f"i-{n:08x}") for n in range(0xB0, 0xB6)]
    with held(hostd, ref):
        tickets = [client.enqueue(SleepInstance(**ids(ref)), host=HOST)]
        first = tickets[0].request_id
        backing_off = "SELECT 1 FROM requests WHERE request_id = ? AND not_before_ms > 0"
        eventually(lambda: bool(hostd.rows(backing_off, first)), "it backs off")
        tickets += [client.enqueue(SleepInstance(**ids(ref)), host=HOST) for _ in range(20)]
        eventually(lambda: len(taken(hostd)) == 4, "it has taken all that it may")
        tickets += [client.enqueue(StartInstance(**ids(other)), host=HOST) for other in others]
        stopped(hostd, 60.0)
        waiting = {ticket.request_id for ticket in tickets}
        assert taken(hostd) | queued(hostd) == waiting, "each is in the ledger, or in the queue"
        attempts = counts(hostd, first)[1]
        assert counts(hostd, first)[2:] == (0, 0)
        assert attempts >= 1, "what was tried and put off counts"
    hostd.start()
    for ticket in tickets:
        ended_well(ticket.wait(WAIT_S))


def taken(process: HostdProcess) -> set[str]:
    """What the ledger holds as unfinished."""
    return {row[0] for row in process.rows("SELECT request_id FROM requests WHERE result IS NULL")}


def queued(process: HostdProcess) -> set[str]:
    """What stands in Redis' queue."""
    names = process.redis.client().lrange(process.keys.queue, 0, -1)
    texts = (name if isinstance(name, str) else name.decode() for name in names)
    return {text.removeprefix(f"{HOST}_") for text in texts}
