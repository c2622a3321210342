"""The ledger keeps every accepted request, however the process ends."""

from __future__ import annotations

import ast
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from enqueue.results import Done, Failed, Result
from worker.errors import StartupError
from worker.ledger.database import Database
from worker.ledger.entries import DeliveryKind, LedgerEntry
from worker.ledger.instances import Change
from worker.ledger.ledger import Ledger
from worker.ledger.schema import MIGRATIONS, SCHEMA_VERSION

ROOT = Path(__file__).parents[2]
DONE = Done(op="StopInstance", changed=True, state="stopped")


def failure(code: str) -> Failed:
    kind = code.partition("/")[0]
    return Failed(op="StopInstance", code=code, failure_class=kind, message="m")  # type: ignore[arg-type]  # the test's codes name a class


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def accept(
    ledger: Ledger, id_: str = "r1", digest: bytes = b"d", instance: str = "i-1"
) -> tuple[DeliveryKind, LedgerEntry]:
    return ledger.requests.accept(
        id_, digest=digest, call=b"[]", op="StopInstance", tenant_id="t", instance_id=instance,
        now_ms=1,
    )  # fmt: skip


def end(ledger: Ledger, result: Result, id_: str = "r1") -> None:
    ledger.decide(id_, result, now_ms=2)
    ledger.mark_published([id_], events_upto=0)


def test_a_delivery_is_new_then_in_flight_then_unpublished_then_replayed(path: Path) -> None:
    ledger = Ledger.open(path)
    assert accept(ledger)[0] is DeliveryKind.NEW
    assert accept(ledger)[0] is DeliveryKind.IN_FLIGHT
    ledger.decide("r1", DONE, now_ms=2)
    assert accept(ledger)[0] is DeliveryKind.UNPUBLISHED
    ledger.mark_published(["r1"], events_upto=0)
    delivery, entry = accept(ledger)
    assert delivery is DeliveryKind.REPLAY
    assert entry.result == DONE
    ledger.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("rejected/expired", DeliveryKind.REPLAY),
        ("lost/memory_lost", DeliveryKind.REPLAY),
        ("conflict/superseded", DeliveryKind.REPLAY),
        ("conflict/overtaken", DeliveryKind.REPLAY),
        ("conflict/not_running", DeliveryKind.RERUN),
        ("transient/no_space", DeliveryKind.RERUN),
        ("broken/no_effect", DeliveryKind.RERUN),
    ],
)
def test_only_a_result_that_is_not_final_is_run_again(
    path: Path, code: str, expected: DeliveryKind
) -> None:
    ledger = Ledger.open(path)
    accept(ledger)
    end(ledger, failure(code))
    assert accept(ledger)[0] is expected
    ledger.close()


def test_the_same_id_with_another_digest_is_reused_in_every_state(path: Path) -> None:
    ledger = Ledger.open(path)
    accept(ledger)
    assert accept(ledger, digest=b"other")[0] is DeliveryKind.REUSED
    end(ledger, DONE)
    delivery, entry = accept(ledger, digest=b"other")
    assert delivery is DeliveryKind.REUSED
    assert entry.result == DONE
    ledger.close()


def test_a_later_decided_request_of_the_instance_overtakes_an_older_one(path: Path) -> None:
    ledger = Ledger.open(path)
    accept(ledger, "old")
    end(ledger, failure("transient/no_space"), "old")
    accept(ledger, "other-instance", instance="i-2")
    end(ledger, DONE, "other-instance")
    entry = accept(ledger, "old")[1]
    assert ledger.requests.overtaken(entry) is None
    accept(ledger, "newer")
    assert ledger.requests.overtaken(entry) is None
    end(ledger, DONE, "newer")
    assert ledger.requests.overtaken(entry) == "newer"
    assert ledger.requests.overtaken(ledger.requests.move_to_end("old")) is None
    ledger.close()


def test_a_failed_transaction_changes_nothing(path: Path) -> None:
    ledger = Ledger.open(path)
    with pytest.raises(RuntimeError), ledger.transaction():  # noqa: PT012  the block is the point
        accept(ledger)
        raise RuntimeError
    assert ledger.requests.unfinished() == []
    ledger.close()


def test_events_and_status_enter_with_the_result_and_leave_in_order(path: Path) -> None:
    ledger = Ledger.open(path)
    accept(ledger)
    change = Change("i-1", "t", "p", "stopped")
    ledger.decide("r1", DONE, now_ms=2, events=[b"one", b"two"], change=change)
    rows = ledger.outbox.unpublished()
    assert [event for _, event in rows] == [b"one", b"two"]
    ledger.mark_published(["r1"], events_upto=rows[0][0])
    assert [event for _, event in ledger.outbox.unpublished()] == [b"two"]
    assert ledger.instances.count_by_status() == {"stopped": 1}
    ledger.close()


def test_the_journal_keeps_a_begun_step_until_it_is_undone(path: Path) -> None:
    ledger = Ledger.open(path)
    accept(ledger)
    ledger.journal.began("r1", "tap_present", 1)
    ledger.journal.finished("r1", "tap_present", 2)
    ledger.journal.began("r1", "cgroup_present", 3)
    assert ledger.journal.begun_steps("r1") == {"tap_present", "cgroup_present"}
    assert ledger.journal.steps("r1") == [("tap_present", 1, 2), ("cgroup_present", 3, None)]
    ledger.journal.undone("r1", ["cgroup_present"])
    assert ledger.journal.begun_steps("r1") == {"tap_present"}
    ledger.close()


def test_pruning_forgets_old_published_requests_and_nothing_else(path: Path) -> None:
    ledger = Ledger.open(path)
    accept(ledger, "old")
    end(ledger, DONE, "old")
    accept(ledger, "open")
    assert ledger.prune(before_ms=3) == 1
    assert accept(ledger, "old")[0] is DeliveryKind.NEW
    assert accept(ledger, "open")[0] is DeliveryKind.IN_FLIGHT
    ledger.close()


def test_an_accepted_request_survives_a_kill(path: Path) -> None:
    program = (
        "import os, signal; from pathlib import Path; from worker.ledger.ledger import Ledger;"
        f"l = Ledger.open(Path({str(path)!r}));"
        "l.requests.accept('r1', digest=b'd', call=b'[]', op='Ping', tenant_id=None,"
        " instance_id=None, now_ms=1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    ledger = Ledger.open(path)
    assert [entry.request_id for entry in ledger.requests.unfinished()] == ["r1"]
    ledger.close()


def test_a_damaged_ledger_is_refused_with_a_hint(path: Path) -> None:
    path.write_bytes(b"this is no database at all, not even a little" * 100)
    with pytest.raises(StartupError, match="restore it from a backup"):
        Ledger.open(path)


def test_only_root_can_read_the_ledger(path: Path) -> None:
    Ledger.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_step_from_an_older_schema_is_taken_once_and_whole(path: Path) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    database = Database(connection)
    with closing(database):
        old = "CREATE TABLE IF NOT EXISTS facts (name TEXT)"
        database.prepare(old, 1, {})
        database.write("INSERT INTO facts VALUES ('kept')")
        new = "CREATE TABLE IF NOT EXISTS facts (name TEXT, value INTEGER)"
        add = "ALTER TABLE facts ADD COLUMN value INTEGER NOT NULL DEFAULT 7"
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            database.prepare(new, 2, {2: (add, "DELETE FROM missing")})
        connection.execute("ROLLBACK")  # as the end of the process does
        assert database.schema_version() == 1
        for _ in range(2):
            database.prepare(new, 2, {2: (add,)})
        assert database.rows("SELECT name, value FROM facts") == [("kept", 7)]
        assert database.schema_version() == 2
        with pytest.raises(sqlite3.DatabaseError, match=r"newer hostd \(schema 2\)"):
            database.prepare(old, 1, {})


def test_every_schema_number_has_its_step() -> None:
    assert set(MIGRATIONS) == set(range(2, SCHEMA_VERSION + 1))


def test_sql_is_written_only_in_the_modules_of_the_ledgers_tables() -> None:
    tables = {"database", "schema", "requests", "entries", "journal", "outbox", "instances"}
    tables |= {"reservations", "meta"}
    statement = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|PRAGMA|CREATE|ALTER|BEGIN)\s")
    for file in (ROOT / "worker").rglob("*.py"):
        if file.parent.name == "ledger" and file.stem in tables:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            text = node.value if isinstance(node, ast.Constant) else None
            assert not (isinstance(text, str) and statement.match(text)), f"{file}: {text}"
