"""`hostd drain` and `hostd undrain` beside a real hostd, with a reboot between them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue import HostClient
from enqueue.requests import DestroyInstance, StartInstance
from enqueue.results import Done
from tests.fixtures.recovery import all_reconciled, document, found, reboot, started
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from tests.root.test_graceful_stop import slow_down
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0
FAST, SLOW = {"assumed_mib_s": 10_000.0}, {"assumed_mib_s": 40.0}


def command(process: HostdProcess, *words: str) -> subprocess.Popen[bytes]:
    program = (sys.executable, "-m", "worker", *process.arguments[:-1], *words)
    return process.spawn(*program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def said(process: HostdProcess, *words: str, code: int = 0) -> str:
    """What a command of an operator prints."""
    ran = command(process, *words)
    out, errors = ran.communicate(timeout=WAIT_S)
    assert ran.returncode == code, (ran.returncode, out, errors)
    return out.decode()


def told(process: HostdProcess, *words: str, code: int = 0) -> dict[str, Any]:
    """The same, as a program reads it."""
    document: dict[str, Any] = json.loads(said(process, *words, "--json", code=code))
    return document


def status(process: HostdProcess, ref: InstanceRef) -> str:
    return str(document(process, ref)["status"])


def test_a_drain_outlives_a_reboot_and_undrain_wakes_exactly_what_it_put_to_sleep(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(drain=FAST)
    hostd.start()
    client = hostd.client()
    running = [started(hostd, client, f"i-0000000{n}") for n in "abc"]
    stopped = hostd.instance("i-0000000d")
    eventually(lambda: all_reconciled(hostd), "hostd knows its boot")

    drained = told(hostd, "drain", "--deadline", "60s")
    assert [row["outcome"] for row in drained["instances"]] == ["slept"] * 3
    assert drained["running"] == []
    assert [status(hostd, ref) for ref in (*running, stopped)] == ["sleeping"] * 3 + ["created"]
    assert {event["drain_id"] for event in found(hostd, "host_drained")} == {drained["drain"]}

    start = client.enqueue(StartInstance(**ids(stopped)), host=HOST)
    eventually(lambda: hostd.state_of(start.request_id) == "accepted", "it is taken")
    why = json.loads(said(hostd, "why", stopped.instance_id, "--json"))
    assert any("waits: host is draining" in line for line in why["now"]), why
    reboot(hostd)
    hostd.start()
    eventually(lambda: all_reconciled(hostd), "every instance was looked at")
    destroyed = client.enqueue(DestroyInstance(**ids(running[1])), host=HOST).wait(WAIT_S)
    assert isinstance(destroyed, Done)
    assert [status(hostd, ref) for ref in (running[0], running[2], stopped)] == [
        "sleeping", "sleeping", "created",
    ]  # fmt: skip
    assert hostd.state_of(start.request_id) == "accepted"

    undrained = told(hostd, "undrain")
    back = {row["instance"][-10:]: row["back"] for row in undrained["instances"]}
    assert back == {
        "i-0000000a": "running",
        "i-0000000b": "left: it was destroyed since",
        "i-0000000c": "running",
    }
    assert isinstance(start.wait(WAIT_S), Done)
    assert status(hostd, stopped) == "running"
    (event,) = found(hostd, "host_undrained")
    assert (event["back"], event["left"]) == (2, 1)
    said(hostd, "undrain", code=1)


def test_a_deadline_that_is_too_short_saves_the_smallest_and_says_what_still_runs(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(drain=SLOW, worker={"threads": 1})
    hostd.start()
    client = hostd.client()
    refs = [resized(hostd, client, f"i-0000000{n}", mib) for n, mib in (("a", 48), ("b", 400))]
    for ref, seconds in zip(refs, (1.2, 0.1), strict=True):  # 40 MiB a second, as assumed
        slow_down(hostd, ref, seconds)
    report = said(hostd, "drain", "--deadline", "8", code=1)
    assert "smallest_first" in report
    assert f"{refs[0]}: slept" in report
    assert "not_begun" in report
    assert [status(hostd, ref) for ref in refs] == ["sleeping", "running"]
    shown = told(hostd, "drain", "--status")
    assert shown["running"] == [str(refs[1])]
    again = told(hostd, "drain", "--deadline", "10m")
    assert again["drain"] == shown["drain"]
    assert [status(hostd, ref) for ref in refs] == ["sleeping"] * 2


def resized(process: HostdProcess, client: HostClient, name: str, mem_mib: int) -> InstanceRef:
    """An instance with that much memory, started."""
    ref = process.instance(name)
    path = process.layout.pool(ref.tenant_id, ref.pool_id) / "pool.json"
    pool = msgspec.json.decode(path.read_bytes())
    pool["instance_resources"]["mem_mib"] = mem_mib
    path.write_bytes(msgspec.json.encode(pool))
    result = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(WAIT_S)
    assert isinstance(result, Done), result
    return ref


def test_a_drain_asked_for_while_no_hostd_runs_is_done_by_the_next_one(
    make_hostd: HostdMaker,
) -> None:
    hostd = make_hostd(drain=FAST)
    hostd.start()
    ref = started(hostd, hostd.client(), "i-0000000a")
    assert hostd.stop() == 0
    said(hostd, "drain", "--deadline", "10m", "--strategy", "stop", code=3)
    assert status(hostd, ref) == "running"
    hostd.start()
    eventually(lambda: status(hostd, ref) == "stopped", "it is stopped")
    said(hostd, "undrain")
    assert status(hostd, ref) == "running"


def test_a_drain_draws_a_bar_on_a_terminal(make_hostd: HostdMaker, tmp_path: Path) -> None:
    hostd = make_hostd(drain=FAST)
    hostd.start()
    started(hostd, hostd.client(), "i-0000000a")
    words = (sys.executable, "-m", "worker", *hostd.arguments[:-1], "drain", "--deadline", "60")
    script = ("script", "-qec", " ".join(words), str(tmp_path / "typescript"))
    ran = hostd.spawn(*script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, _ = ran.communicate(timeout=WAIT_S)
    assert ran.returncode == 0, out
    assert "[####################]" in out.decode(), out
    assert "1/1" in out.decode()
