"""The ledger's file: opening it, its schema, its transactions."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from worker.errors import StartupError

SCHEMA_VERSION: Final = 2
LOST_BEFORE: Final = "lost_before_ms"  # the note; see `LedgerFile.lost_before_ms`
BACKUP_AT: Final = "backup_at_ms"  # a note that only copies made by `hostd ledger backup` have
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS requests (
    request_id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,          -- order of acceptance; a new run gets a new one
    digest BLOB NOT NULL,                 -- of issuer and canonical request
    op TEXT NOT NULL,
    tenant_id TEXT, instance_id TEXT,
    call BLOB NOT NULL,                   -- RQ's data, as it came
    state TEXT NOT NULL CHECK (state IN ('accepted', 'decided', 'told')),
    runs INTEGER NOT NULL DEFAULT 1,
    attempts INTEGER NOT NULL DEFAULT 0,  -- of this run
    accepted_at_ms INTEGER NOT NULL,
    began_at_ms INTEGER,                  -- first attempt of this run
    not_before_ms INTEGER NOT NULL DEFAULT 0,
    code TEXT, result BLOB, decided_at_ms INTEGER,
    attempting INTEGER NOT NULL DEFAULT 0,  -- worker.ledger.entries.Attempting
    crashes INTEGER NOT NULL DEFAULT 0);    -- of hostd, while this run was alone in an attempt
CREATE INDEX IF NOT EXISTS requests_open ON requests (state, seq) WHERE state != 'told';
CREATE INDEX IF NOT EXISTS requests_instance ON requests (instance_id, seq);
CREATE TABLE IF NOT EXISTS journal (
    request_id TEXT NOT NULL, step TEXT NOT NULL,
    began_at_ms INTEGER NOT NULL, finished_at_ms INTEGER,
    PRIMARY KEY (request_id, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (
    kind TEXT NOT NULL, key TEXT NOT NULL, owner TEXT NOT NULL,
    vcpus INTEGER NOT NULL DEFAULT 0, mem_mib INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
    instance_id TEXT PRIMARY KEY, tenant_id TEXT NOT NULL, pool_id TEXT NOT NULL,
    status TEXT NOT NULL, changed_at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event BLOB NOT NULL,
    published INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS outbox_open ON outbox (seq) WHERE published = 0;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
# From the schema before to each number.
MIGRATIONS: Final = {
    2: (
        "ALTER TABLE requests ADD COLUMN attempting INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE requests ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0",
    )
}


class Durability(Enum):
    """What a commit outlives; the value is SQLite's `synchronous`.

    A journal entry need not outlive a power cut: what it speaks of is gone then too (processes,
    devices, control groups) or is found by looking (disks, images).  Not syncing it saves a
    millisecond a step.
    """

    POWER_CUT = "FULL"
    KILL = "NORMAL"


def unusable_ledger(path: Path, error: Exception) -> StartupError:
    """The error for a ledger that hostd must not go on with."""
    return StartupError(
        f"ledger {path}: {error}; restore it from a backup, or make a new one from the disk with "
        "`hostd recover --rebuild-ledger`; see docs/runbook.md#ledger"
    )


@contextmanager
def open_readonly(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot change the ledger, beside a hostd that may be running.

    Raises:
        StartupError: there is none, or it cannot be read.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as db:
            db.execute("PRAGMA busy_timeout=5000")
            yield db
    except sqlite3.Error as error:
        raise unusable_ledger(path, error) from error


class Database:
    """One SQLite file, open.  All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the ledger, 0600.

        Raises:
            StartupError: it cannot be opened, is damaged, or is of a newer hostd.
        """
        self._lock = threading.RLock()
        self._batching = 0
        self._synced = Durability.POWER_CUT
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise unusable_ledger(path, error) from error

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA busy_timeout=5000")
        # Not quick_check, which misses an index that disagrees with its table: 8 us a request.
        verdict = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"damaged: {verdict}")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"of a newer hostd (schema {version})")
        for number in range(version + 1, SCHEMA_VERSION + 1) if version else ():
            self._migrate(number)
        self._db.executescript(SCHEMA)
        self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _migrate(self, number: int) -> None:
        """The schema is of that number, or as it was before."""
        self._db.execute("BEGIN IMMEDIATE")
        for statement in MIGRATIONS[number]:
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={number}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(
        self, *, survives: Durability = Durability.POWER_CUT
    ) -> Iterator[sqlite3.Connection]:
        """One durable commit; nested uses join the outermost."""
        with self._lock:
            if self._batching:
                yield self._db
                return
            self._demand(survives)
            self._db.execute("BEGIN IMMEDIATE")
            self._batching += 1
            try:
                yield self._db
                self._commit()
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            finally:
                self._batching -= 1

    def _demand(self, survives: Durability) -> None:
        """A commit is synced, or only written: SQLite looks at this when a transaction begins."""
        if survives is not self._synced:
            self._db.execute(f"PRAGMA synchronous={survives.value}")
            self._synced = survives

    def noted(self, key: str) -> str | None:
        """What was noted under that key."""
        with self._lock:
            row = self._db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
            return None if row is None else str(row[0])

    def put_note(self, key: str, value: str) -> None:
        """The key has this value."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def lost_before_ms(self) -> int | None:
        """Until when requests may have been forgotten (Unix milliseconds); None if none were."""
        noted = self.noted(LOST_BEFORE)
        return None if noted is None else int(noted)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """What is written within is taken back: for questions of the form "what if"."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._batching += 1
            try:
                yield
            finally:
                self._batching -= 1
                self._db.execute("ROLLBACK")

    def _commit(self) -> None:
        """The one place where something becomes durable."""
        self._db.execute("COMMIT")
