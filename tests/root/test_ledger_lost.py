"""A ledger that is lost, damaged or restored under a machine whose guests live on."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from enqueue import HostClient
from enqueue.requests import Request, StartInstance, StopInstance
from enqueue.results import Done, Failed, Result
from enqueue.times import Clock
from tests.fixtures.worker import BOUND_S, HOST, HostdProcess, eventually, ids
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
SKEW_S = 30.0


def asked(client: HostClient, request: Request, request_id: str) -> Result:
    return client.enqueue(request, host=HOST, request_id=request_id).wait(timeout_s=BOUND_S)


def command(host: HostdProcess, *words: str, code: int = 0) -> str:
    """What a command of `hostd` prints, beside the host's own process or without it."""
    line = (sys.executable, "-m", "worker", "--config", str(host.config), *words)
    process = host.spawn(*line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with process:
        said, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == code, said.decode()
    return said.decode()


def documents(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def refusal(host: HostdProcess) -> str:
    """What `hostd run` says when it does not start."""
    said = command(host, "run", code=1)
    assert "Traceback" not in said
    return said


def lose_ledger(host: HostdProcess) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{host.ledger}{end}").unlink(missing_ok=True)


@pytest.fixture
def ref(hostd: HostdProcess) -> InstanceRef:
    """An instance that runs."""
    ref = hostd.instance("i-00000001")
    assert isinstance(asked(hostd.client(), StartInstance(**ids(ref)), "start-1"), Done)
    return ref


def test_a_lost_ledger_is_rebuilt_by_hand_and_forgets_nothing_silently(
    hostd: HostdProcess, ref: InstanceRef
) -> None:
    held = hostd.rows("SELECT * FROM reservations ORDER BY kind, key")
    hostd.kill()
    lose_ledger(hostd)
    said = refusal(hostd)
    assert "is gone" in said
    assert "hostd recover --rebuild-ledger" in said
    assert not hostd.ledger.exists()

    (found,) = documents(command(hostd, "recover", "--rebuild-ledger", "--json"))
    assert found["instances"] == {"running": 1}
    assert found["problems"] == []
    assert hostd.rows("SELECT * FROM reservations ORDER BY kind, key") == held
    hostd.start()

    client = hostd.client()
    client.enqueue(StartInstance(**ids(ref)), host=HOST, request_id="start-1")
    stop = asked(client, StopInstance(**ids(ref)), "stop-1")
    assert isinstance(stop, Failed), "issued within the skew that is allowed"
    assert stop.code == "rejected/ledger_lost"
    ahead = Clock(wall=lambda: time.time() + SKEW_S)
    client.clock = ahead
    assert asked(client, StartInstance(**ids(ref)), "start-2").changed is False  # type: ignore[union-attr]  # Failed has none, and fails so
    assert isinstance(asked(client, StopInstance(**ids(ref)), "stop-2"), Done)
    hostd.restart()
    assert "older copy" not in hostd.said()


def test_a_restored_backup_is_noticed(hostd: HostdProcess, ref: InstanceRef) -> None:
    copy = hostd.base / "copy.db"
    command(hostd, "ledger", "backup", str(copy))
    assert isinstance(asked(hostd.client(), StopInstance(**ids(ref)), "stop-1"), Done)
    hostd.kill()
    lose_ledger(hostd)
    hostd.ledger.write_bytes(copy.read_bytes())
    hostd.start()
    assert "the ledger is an older copy" in hostd.said()
    client = hostd.client()
    with hostd.redis.client() as redis:
        redis.flushall()
    stop = asked(client, StopInstance(**ids(ref)), "stop-1")
    assert isinstance(stop, Failed)
    assert stop.code == "rejected/ledger_lost"
    start = asked(client, StartInstance(**ids(ref)), "start-1")
    assert isinstance(start, Done)
    assert start.replayed


def test_looking_at_the_ledger_of_a_killed_hostd_sees_all_and_changes_nothing(
    hostd: HostdProcess, ref: InstanceRef
) -> None:
    hostd.kill()
    (stats,) = documents(command(hostd, "ledger", "stats", "--json"))
    assert stats["by_outcome"] == {"done": 1}
    assert stats["integrity"] == "ok"
    (row,) = documents(command(hostd, "ledger", "export"))
    assert row["request_id"] == "start-1"
    findings = documents(command(hostd, "doctor", "--json", code=1))
    (finding,) = [one for one in findings if one["check"] == "ledger"]
    assert finding["grade"] == "ok", finding
    hostd.start()
    assert "older copy" not in hostd.said()


def test_a_ledger_that_is_damaged_under_a_running_hostd_stops_it(
    hostd: HostdProcess, ref: InstanceRef
) -> None:
    with closing(sqlite3.connect(hostd.ledger, isolation_level=None, timeout=10)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size = hostd.ledger.stat().st_size
        with hostd.ledger.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        # A commit of another process makes hostd drop the pages that it has in memory.
        db.execute("PRAGMA user_version = 1")
    hostd.client().enqueue(StopInstance(**ids(ref)), host=HOST, request_id="stop-1")
    eventually(lambda: not hostd.runs(), "hostd stops")
    said = [line for line in hostd.said().splitlines() if line.startswith("hostd: ")]
    assert len(said) == 1, hostd.said()
    assert "restore it from a backup" in said[0]
    hostd.kill()
    assert "restore it from a backup" in refusal(hostd)
    findings = documents(command(hostd, "doctor", "--json", code=1))
    (finding,) = [one for one in findings if one["check"] == "ledger"]
    assert finding["grade"] == "fail"
