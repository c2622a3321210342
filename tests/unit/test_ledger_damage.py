"""A damaged ledger is never opened, wherever the damage is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from enqueue.requests import InstanceId, PoolId, StartInstance, StopInstance, TenantId
from tests.fakes.world import HOST, World
from worker.commands.ledger import health, verify
from worker.commands.rebuild import is_whole
from worker.config import Config, PathsConfig
from worker.errors import StartupError
from worker.ledger.backup import backup
from worker.ledger.checks import faults
from worker.ledger.ledger import Ledger
from worker.ledger.readonly import open_readonly

PAGE_BYTES = 4096
REQUESTS = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a whole ledger with some hundred pages."""
    world = World(tmp_path_factory.mktemp("whole"))
    world.tenant("acme", 7)
    ref = world.instance("acme", "i-00000001")
    for number in range(REQUESTS // 2):
        for kind in (StartInstance, StopInstance):
            request = kind(
                tenant_id=TenantId("acme"),
                pool_id=PoolId("p"),
                instance_id=InstanceId(ref.instance_id),
            )
            world.ask(request, f"{kind.__name__}-{number}")
    world.ledger.close()
    return (world.directory / "ledger.db").read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "ledger.db"
    path.write_bytes(whole)
    return path


def root_page(path: Path, name: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        return int(db.execute(query, (name,)).fetchone()[0])


def overwrite(path: Path, page: int, offset: int = 0, count: int = PAGE_BYTES) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES + offset)
        file.write(os.urandom(count))


def cut(path: Path, size_bytes: int) -> None:
    os.truncate(path, size_bytes)


def remove_a_row_from_an_index(path: Path) -> None:
    """Removes one row from an index, which `PRAGMA quick_check` does not notice."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        sql = db.execute("SELECT sql FROM sqlite_master WHERE name = 'requests_open'").fetchone()
        hidden = "requests_instance"
        page, text = db.execute(
            "SELECT rootpage, sql FROM sqlite_master WHERE name = ?", (hidden,)
        ).fetchone()
        assert sql is not None
        db.execute("PRAGMA writable_schema=ON")
        db.execute("DELETE FROM sqlite_master WHERE name = ?", (hidden,))
        db.execute("PRAGMA writable_schema=RESET")
        db.execute("UPDATE requests SET instance_id = 'i-99999999' WHERE seq = 3")
        db.execute("PRAGMA writable_schema=ON")
        db.execute(
            "INSERT INTO sqlite_master VALUES ('index', ?, 'requests', ?, ?)", (hidden, page, text)
        )
        db.execute("PRAGMA writable_schema=RESET")
        assert db.execute("PRAGMA quick_check").fetchone()[0] == "ok"


DAMAGES: dict[str, Callable[[Path], None]] = {
    "header": lambda path: overwrite(path, 1, count=100),
    "root of the requests": lambda path: overwrite(path, root_page(path, "requests")),
    "root of an index": lambda path: overwrite(path, root_page(path, "requests_instance")),
    "middle": lambda path: overwrite(path, path.stat().st_size // PAGE_BYTES // 2),
    "a hundred bytes of the last page": lambda path: overwrite(
        path, path.stat().st_size // PAGE_BYTES, count=100
    ),
    "half gone": lambda path: cut(path, path.stat().st_size // 2),
    "last page gone": lambda path: cut(path, path.stat().st_size - PAGE_BYTES),
    "not even a header": lambda path: cut(path, 50),
    "no database": lambda path: overwrite(path, 1, count=path.stat().st_size),
    "index and table disagree": remove_a_row_from_an_index,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_ledger_is_refused_reported_and_not_backed_up(
    path: Path, damage: Callable[[Path], None]
) -> None:
    damage(path)
    with pytest.raises(StartupError, match=r"restore it from a backup.*--rebuild-ledger"):
        Ledger.open(path)
    config = Config(
        host=HOST,
        paths=PathsConfig(state=path.parent / "state", ledger=path, runtime=path.parent / "run"),
    )
    grade, seen = health(config)
    assert grade == "fail", seen
    assert not is_whole(path)
    copy = path.with_name("copy.db")
    with pytest.raises(StartupError):
        backup(path, copy, now_ms=1)
    assert not list(path.parent.glob("copy.db*"))


def test_a_whole_ledger_is_found_whole(path: Path) -> None:
    Ledger.open(path).close()
    assert verify(path) == []
    assert is_whole(path)


def test_a_damaged_wal_costs_only_what_was_not_in_the_file(path: Path, whole: bytes) -> None:
    """SQLite drops a WAL's frames from the first wrong checksum on."""
    ledger = Ledger.open(path)
    ledger.meta.set("later", "1")
    wal = Path(f"{path}-wal").read_bytes()
    ledger.close()
    path.write_bytes(whole)
    Path(f"{path}-wal").write_bytes(wal[:40] + os.urandom(len(wal) - 40))
    reopened = Ledger.open(path)
    assert reopened.meta.get("later") is None
    assert len(reopened.requests.history("i-00000001", limit=1000)) == REQUESTS
    reopened.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE requests SET digest = x'00' WHERE seq = 3", "its digest is not that of its bytes"),
        ("UPDATE requests SET result = NULL WHERE seq = 3", "without a result"),
        ("UPDATE requests SET result = x'7b' WHERE seq = 3", "its result cannot be read"),
        ("UPDATE requests SET code = 'broken/bug' WHERE seq = 3", "its code is broken/bug"),
        ("UPDATE requests SET op = 'Ping' WHERE seq = 3", "its operation is Ping"),
        ("UPDATE requests SET call = x'5b5d' WHERE seq = 3", "its bytes are no request"),
        ("UPDATE requests SET request_id = 'other' WHERE seq = 3", "its bytes are those of"),
        ("INSERT INTO journal VALUES ('other', 'tap_present', 1, 2)", "which is not on record"),
    ],
)
def test_inconsistencies_that_sqlite_cannot_see_are_found(
    path: Path, change: str, said: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(change)
    with open_readonly(path) as ledger:
        found = faults(ledger)
    assert any(said in fault for fault in found), found


def test_reading_changes_nothing_and_makes_no_ledger(path: Path, whole: bytes) -> None:
    with open_readonly(path) as ledger, pytest.raises(sqlite3.OperationalError, match="readonly"):
        ledger.reservations.clear()
    assert path.read_bytes() == whole
    missing = path.with_name("missing.db")
    with pytest.raises(StartupError, match=r"missing\.db"):
        verify(missing)
    assert not missing.exists()
