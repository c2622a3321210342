"""A sleep that failed for the time being, tried again in four ways: one outcome."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enqueue import HostClient, keys
from enqueue.requests import SleepInstance, StopInstance
from enqueue.results import Done, Failed
from tests.fixtures.dashboard import Dashboard
from tests.fixtures.recovery import WAIT_S, all_reconciled, document, reboot, started
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]

RETRY = {"attempts": 1}
FULL = {"retry": RETRY, "images": {"keep_free_mib": 1 << 30}}
ROOM = {"retry": RETRY, "images": {"keep_free_mib": 1}}
Way = Callable[[HostdProcess, str], None]


def by_itself(process: HostdProcess, request_id: str) -> None:
    """hostd has done it at its start."""


def by_hostctl(process: HostdProcess, request_id: str) -> None:
    where = ["--redis", process.redis.url, "--host", HOST]
    command = ["retry", "--op", "SleepInstance", "--since", "1h", *where]
    subprocess.run([sys.executable, "-m", "enqueue.hostctl.cli", *command], check=True)


def by_stock_rq(process: HostdProcess, request_id: str) -> None:
    rq = Path(sys.executable).with_name("rq")
    where = ["--url", process.redis.url, "--queue", process.keys.queue_name]
    subprocess.run([str(rq), "requeue", *where, keys.job_id(HOST, request_id)], check=True)


def by_the_dashboard(process: HostdProcess, request_id: str) -> None:
    dashboard = Dashboard("--redis", process.redis.url)
    try:
        answer = dashboard.http.post(f"/job/{keys.job_id(HOST, request_id)}/requeue")
        assert answer.status_code == 200, answer.text
    finally:
        dashboard.stop()


WAYS: dict[str, Way] = {
    "by itself": by_itself,
    "hostctl": by_hostctl,
    "rq requeue": by_stock_rq,
    "rq-dashboard": by_the_dashboard,
}


def failed_sleep(process: HostdProcess, ref: InstanceRef, client: HostClient) -> str:
    """A sleep that failed for want of room; its request id."""
    ticket = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    result = ticket.wait(timeout_s=WAIT_S)
    assert isinstance(result, Failed)
    assert result.code == "transient/no_space", result
    return str(ticket.request_id)


def code_of(process: HostdProcess, request_id: str) -> str | None:
    rows = process.rows("SELECT code FROM requests WHERE request_id = ?", request_id)
    return str(rows[0][0]) if rows and rows[0][0] else None


def runs_of(process: HostdProcess, request_id: str) -> int:
    (row,) = process.rows("SELECT runs FROM requests WHERE request_id = ?", request_id)
    return int(row[0])


def host_without_room(make_hostd: HostdMaker) -> tuple[HostdProcess, HostClient]:
    process = make_hostd(**FULL)
    process.start()
    return process, process.client()


def room_made(process: HostdProcess, way: str) -> None:
    """hostd starts again, with room, and tries sleeps again if that is the way."""
    process.configure(**ROOM, recover={"retry_sleeps": way == "by itself"})
    process.start()


@pytest.mark.parametrize("way", WAYS)
def test_after_a_restart_the_guest_sleeps(way: str, make_hostd: HostdMaker) -> None:
    process, client = host_without_room(make_hostd)
    ref = started(process, client, "i-0000000a")
    request_id = failed_sleep(process, ref, client)
    assert document(process, ref)["status"] == "running"
    process.kill()
    room_made(process, way)
    WAYS[way](process, request_id)
    eventually(lambda: document(process, ref)["status"] == "sleeping", "it sleeps")
    eventually(lambda: process.state_of(request_id) == "published", "it is published")
    result = client.ticket(request_id, host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    assert (result.state, runs_of(process, request_id)) == ("sleeping", 2)


@pytest.mark.parametrize("way", WAYS)
def test_after_a_reboot_the_memory_is_lost_and_nobody_tries_again(
    way: str, make_hostd: HostdMaker
) -> None:
    process, client = host_without_room(make_hostd)
    ref = started(process, client, "i-0000000a")
    request_id = failed_sleep(process, ref, client)
    eventually(lambda: all_reconciled(process), "hostd knows its boot")
    reboot(process)
    room_made(process, way)
    WAYS[way](process, request_id)
    eventually(lambda: document(process, ref)["status"] == "stopped", "it is stopped")
    lost = "lost/memory_lost"
    eventually(lambda: code_of(process, request_id) == lost, "the sleep says so")
    assert process.layout.volumes(ref).exists()
    assert process.state_of(request_id) is not None
    process.restart()
    eventually(lambda: all_reconciled(process), "another start tries nothing again")
    assert runs_of(process, request_id) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_newer_decision_is_never_undone(way: str, make_hostd: HostdMaker) -> None:
    process, client = host_without_room(make_hostd)
    ref = started(process, client, "i-0000000a")
    request_id = failed_sleep(process, ref, client)
    stopped = client.enqueue(StopInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(stopped, Done)
    process.kill()
    room_made(process, way)
    WAYS[way](process, request_id)
    wanted = "transient/no_space" if way == "by itself" else "conflict/overtaken"
    eventually(lambda: code_of(process, request_id) == wanted, "it is refused, or left alone")
    assert document(process, ref)["status"] == "stopped"
