"""`hostd ledger`, `hostd audit` and `hostd recover`, as an operator types them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from enqueue.requests import InstanceId, PoolId, StartInstance, TenantId
from tests.fakes.world import HOST, NOW_S, World
from worker import cli
from worker.host.records.audit_log import ROTATE_BYTES
from worker.host.records.records import DiskRecords
from worker.ledger.checks import faults
from worker.ledger.readonly import open_readonly
from worker.model.layout import Layout

NOW_MS = int(NOW_S * 1000)
ONE, TWO = "i-00000001", "i-00000002"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A host whose hostd has done one request, refused one, and has one under way."""
    world = World(tmp_path)
    world.tenant("acme", 7)
    start(world, world.instance("acme", ONE), "start-1")
    world.now_s += 100
    start(world, world.instance("acme", TWO, status="destroyed"), "start-2")
    world.now_s += 100
    world.begin(request_for(world, ONE), "start-3")
    (tmp_path / "hostd.toml").write_text(
        f'host = "{HOST}"\n[paths]\nstate = "{tmp_path}/state"\n'
        f'ledger = "{tmp_path}/ledger.db"\nruntime = "{tmp_path}/run"\n'
    )
    return world


def request_for(world: World, instance_id: str) -> StartInstance:
    return StartInstance(
        tenant_id=TenantId("acme"), pool_id=PoolId("p"), instance_id=InstanceId(instance_id)
    )


def start(world: World, ref: Any, request_id: str) -> None:
    world.ask(request_for(world, ref.instance_id), request_id)


def hostd(world: World, *words: str) -> int:
    return cli.main(["--config", str(world.directory / "hostd.toml"), *words])


def printed(
    world: World, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0
) -> list[dict[str, Any]]:
    assert hostd(world, *words, "--json") == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ---------------------------------------------------------------- hostd ledger


def test_stats_count_what_a_running_hostd_has_on_record(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (stats,) = printed(world, capsys, "ledger", "stats")
    assert stats["by_state"] == {"accepted": 1, "published": 2}
    assert stats["by_op"] == {"StartInstance": 3}
    assert stats["by_outcome"] == {"done": 1, "conflict/destroyed": 1}
    assert stats["oldest_ms"] == NOW_MS
    assert stats["oldest_unfinished_ms"] == NOW_MS + 200_000
    assert stats["integrity"] == "ok"
    assert stats["size_bytes"] > 0


def test_show_has_the_steps_with_their_times_and_the_result(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = printed(world, capsys, "ledger", "show", "start-1")
    assert shown["outcome"] == "done"
    assert shown["result"]["state"] == "running"
    assert shown["request"]["instance_id"] == ONE
    applied = {step["name"] for step in shown["result"]["steps"] if step["applied"]}
    assert {step["step"] for step in shown["steps"]} == applied
    assert all(step["finished_at_ms"] >= step["began_at_ms"] for step in shown["steps"])
    with world.ledger.database.transaction() as db:
        query = "SELECT hex(digest) FROM requests WHERE request_id = 'start-1'"
        assert shown["digest"] == db.execute(query).fetchone()[0].lower()


def test_show_says_that_a_request_is_unknown(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hostd(world, "ledger", "show", "other") == cli.FAILED
    assert "no request other" in capsys.readouterr().err


def test_export_has_every_request_in_order_and_those_of_late_on_demand(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(world, capsys, "ledger", "export")
    assert [row["request_id"] for row in rows] == ["start-1", "start-2", "start-3"]
    assert [row["code"] for row in rows] == [None, "conflict/destroyed", None]
    assert len({frozenset(row) for row in rows}) == 1, "the same fields in every line"
    late = printed(world, capsys, "ledger", "export", "--since", "2027-01-15T08:01:00Z")
    assert [row["request_id"] for row in late] == ["start-2", "start-3"]


def test_export_without_a_word_for_programs_is_for_programs_too(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hostd(world, "ledger", "export") == cli.DONE
    assert len([json.loads(line) for line in capsys.readouterr().out.splitlines()]) == 3


def test_export_ends_quietly_when_its_reader_has_had_enough(world: World) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = (sys.executable, "-m", "worker", "--config", str(world.directory / "hostd.toml"))
    ended = subprocess.run(
        (*line, "ledger", "export"), stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (cli.DONE, b"")


def test_a_time_that_is_none_is_wrong_usage(world: World) -> None:
    assert hostd(world, "ledger", "export", "--since", "yesterday") == cli.USAGE


def test_verify_finds_a_whole_ledger_whole_and_says_what_is_wrong_with_another(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(world, capsys, "ledger", "verify") == [{"whole": True, "faults": []}]
    with world.ledger.database.transaction() as db:
        db.execute("UPDATE requests SET digest = x'00' WHERE request_id = 'start-2'")
    (found,) = printed(world, capsys, "ledger", "verify", code=cli.FAILED)
    assert found["faults"] == ["request start-2: its digest is not that of its bytes"]


def test_looking_at_no_ledger_fails_and_makes_none(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.ledger.close()
    path = world.directory / "ledger.db"
    path.unlink()
    for words in (["stats"], ["export"], ["verify"], ["show", "r"]):
        assert hostd(world, "ledger", *words) == cli.FAILED
    assert "unable to open" in capsys.readouterr().err
    assert not path.exists()


def test_a_backup_is_whole_and_roots_alone_while_hostd_writes(world: World) -> None:
    target = world.directory / "copy.db"
    stop = threading.Event()
    written: list[int] = []

    def writes() -> None:
        while not stop.is_set():
            world.ledger.meta.set("count", str(len(written)))
            written.append(1)

    writer = threading.Thread(target=writes)
    writer.start()
    try:
        assert hostd(world, "ledger", "backup", str(target)) == cli.DONE
    finally:
        stop.set()
        writer.join()
    assert written
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in world.directory.glob("copy.db*")) == ["copy.db"]
    with open_readonly(target) as copy:
        assert faults(copy) == []
        assert sum(copy.requests.count_by("state").values()) == 3
        assert copy.meta.get("backup_at_ms") is not None
    assert world.ledger.meta.get("backup_at_ms") is None


@pytest.mark.parametrize("kind", ["file", "dangling symlink"])
def test_a_backup_replaces_nothing(
    world: World, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    target = world.directory / "copy.db"
    if kind == "file":
        target.write_text("precious")
    else:
        target.symlink_to("elsewhere")
    assert hostd(world, "ledger", "backup", str(target)) == cli.FAILED
    assert "exists already" in capsys.readouterr().err
    assert target.is_symlink() or target.read_text() == "precious"


def test_a_backup_into_no_directory_fails_with_its_name(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    target = world.directory / "missing" / "copy.db"
    assert hostd(world, "ledger", "backup", str(target)) == cli.FAILED
    assert str(target) in capsys.readouterr().err


# ---------------------------------------------------------------- hostd recover


def test_a_whole_ledger_is_not_rebuilt(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert hostd(world, "recover", "--rebuild-ledger") == cli.FAILED
    assert "is whole" in capsys.readouterr().err
    assert world.ledger.requests.entry("start-1").state == "published"


def test_a_ledger_is_not_rebuilt_beside_a_running_hostd(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = world.directory / "run" / "hostd.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert hostd(world, "recover", "--rebuild-ledger", "--force") == cli.FAILED
    assert "hostd runs on this host already" in capsys.readouterr().err
    assert world.ledger.requests.entry("start-1").state == "published"


def test_recover_wants_to_be_told_what(world: World) -> None:
    assert hostd(world, "recover") == cli.USAGE


# ---------------------------------------------------------------- hostd audit


def audit_line(at: str, tenant: str, instance: str, action: str) -> dict[str, str]:
    return {
        "timestamp": at, "tenant_id": tenant, "pool_id": "p", "instance_id": instance,
        "action": action, "detail": "", "request_id": f"{action}-{instance}",
    }  # fmt: skip


@pytest.fixture
def logs(world: World) -> Layout:
    """Two tenants' logs; acme's was turned over once, and a kill has torn its last line."""
    layout = Layout(world.directory / "state")
    records = DiskRecords(layout)
    for tenant in ("acme", "other"):
        layout.tenant(tenant).mkdir(parents=True, exist_ok=True)
    records.audit("acme", audit_line("2026-01-01T00:00:00Z", "acme", ONE, "InstanceStarted"))
    log = layout.tenant("acme") / "audit.log"
    with log.open("ab") as file:
        file.write(b"x" * (ROTATE_BYTES - file.tell() - 10) + b"\n")
    records.audit("acme", audit_line("2026-01-03T00:00:00Z", "acme", TWO, "InstanceStopped"))
    assert log.with_name("audit.log.1").exists()
    with log.open("ab") as file:
        file.write(b'{"timestamp":"2026-01-04T00:00:00Z","inst')
    records.audit("other", audit_line("2026-01-02T00:00:00Z", "other", ONE, "InstanceSlept"))
    return layout


def actions(rows: list[dict[str, Any]]) -> list[str]:
    return [row["action"] for row in rows]


def test_audit_merges_all_tenants_logs_by_time(
    world: World, logs: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = printed(world, capsys, "audit")
    assert actions(rows) == ["InstanceStarted", "InstanceSlept", "InstanceStopped"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--tenant", "acme"], ["InstanceStarted", "InstanceStopped"]),
        (["--instance", ONE], ["InstanceStarted", "InstanceSlept"]),
        (["--since", "2026-01-02"], ["InstanceSlept", "InstanceStopped"]),
        (["--tenant", "../acme"], []),
        (["--tenant", "nobody"], []),
    ],
)
def test_audit_shows_what_was_asked_for(
    world: World, logs: Layout, capsys: pytest.CaptureFixture[str],
    words: list[str], expected: list[str],
) -> None:  # fmt: skip
    assert actions(printed(world, capsys, "audit", *words)) == expected


def test_audit_follows_no_symlink_and_waits_for_no_pipe(
    world: World, logs: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    acme, other = (logs.tenant(tenant) / "audit.log" for tenant in ("acme", "other"))
    secret = world.directory / "secret"
    secret.write_text(json.dumps(audit_line("2026-01-02T00:00:00Z", "x", ONE, "Secret")))
    acme.unlink()
    acme.symlink_to(secret)
    other.unlink()
    os.mkfifo(other)
    assert actions(printed(world, capsys, "audit")) == ["InstanceStarted"]


def test_audit_of_a_host_without_tenants_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "hostd.toml"
    config.write_text(f'host = "{HOST}"\n[paths]\nstate = "{tmp_path}/none"\n')
    assert cli.main(["--config", str(config), "audit", "--json"]) == cli.DONE
    assert capsys.readouterr().out == ""
