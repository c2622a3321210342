"""The ledger's file: its connection, its transactions and its schema."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self, TypeGuard

from worker.errors import StartupError
from worker.ledger.schema import MIGRATIONS, SCHEMA, SCHEMA_VERSION

_BUSY_TIMEOUT: Final = "PRAGMA busy_timeout=5000"


class Durability(Enum):
    """What a commit survives; the value is SQLite's `synchronous`.

    A journal entry need not survive a power cut: what it records is gone then too (processes,
    devices, control groups) or is found by looking (disks, images).  Not syncing it saves a
    millisecond a step.
    """

    POWER_CUT = "FULL"
    KILL = "NORMAL"


def unusable_ledger(path: Path, error: Exception) -> StartupError:
    """The error for a ledger that hostd must not use."""
    return StartupError(
        f"ledger {path}: {error}; restore it from a backup, or make a new one from the disk with "
        "`hostd recover --rebuild-ledger`; see docs/runbook.md#ledger"
    )


def is_damage(error: BaseException | None) -> TypeGuard[sqlite3.DatabaseError]:
    """Whether SQLite found the file itself damaged; other errors, such as a full disk, may pass."""
    return type(error) is sqlite3.DatabaseError


class Database:
    """One open SQLite file.  All methods may be called from any thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._lock = threading.RLock()
        self._batching = 0
        self._durability = Durability.POWER_CUT

    @classmethod
    def open(cls, path: Path) -> Self:
        """The database at `path`, which is made, 0600, if it does not exist.

        Raises:
            StartupError: it cannot be opened, is damaged, or is of a newer hostd.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            database = cls(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
            database.prepare()
        except (sqlite3.Error, OSError) as error:
            raise unusable_ledger(path, error) from error
        return database

    @classmethod
    def open_readonly(cls, path: Path) -> Self:
        """The database at `path`, unchecked; it cannot be changed.

        Raises:
            sqlite3.Error: it does not exist, or cannot be read.
        """
        uri = f"{path.absolute().as_uri()}?mode=ro"
        database = cls(sqlite3.connect(uri, uri=True, isolation_level=None))
        database._db.execute(_BUSY_TIMEOUT)
        return database

    def prepare(
        self,
        schema: str = SCHEMA,
        version: int = SCHEMA_VERSION,
        migrations: Mapping[int, Sequence[str]] = MIGRATIONS,
    ) -> None:
        """Checks the file and brings its schema to `version`.

        Raises:
            sqlite3.Error: it is damaged, or of a newer hostd.
        """
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute(_BUSY_TIMEOUT)
        if damage := self.damage(limit=1):
            raise sqlite3.DatabaseError(f"damaged: {damage[0]}")
        found = self.schema_version()
        if found > version:
            raise sqlite3.DatabaseError(f"of a newer hostd (schema {found})")
        for number in range(found + 1, version + 1) if found else ():
            self._migrate(number, migrations[number])
        self._db.executescript(schema)
        self._db.execute(f"PRAGMA user_version={version}")

    def _migrate(self, number: int, statements: Sequence[str]) -> None:
        """Brings the schema to `number`, whole or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        for statement in statements:
            self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={number}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------ read

    def rows(self, query: str, *values: object) -> list[Any]:
        """Every row of the answer."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def row(self, query: str, *values: object) -> Any:
        """The first row of the answer; None if there is none."""
        with self._lock:
            return self._db.execute(query, values).fetchone()

    def each(self, query: str, *values: object) -> Iterator[Any]:
        """The rows, one by one: for a connection, or a transaction, of the caller's own."""
        yield from self._db.execute(query, values)

    def has_table(self, name: str) -> bool:
        """Whether the file has that table."""
        return self.row("SELECT 1 FROM sqlite_master WHERE name = ?", name) is not None

    def schema_version(self) -> int:
        """The number of the file's schema; 0 if it has none yet."""
        return int(self.row("PRAGMA user_version")[0])

    def damage(self, *, limit: int) -> list[str]:
        """What SQLite finds wrong, at most `limit` lines.

        Not by `quick_check`, which misses an index that disagrees with its table.  Takes 8 us a
        request.
        """
        found = [row[0] for row in self.rows(f"PRAGMA integrity_check({limit})")]
        return [] if found == ["ok"] else found

    # ------------------------------------------------------------ write

    @contextmanager
    def transaction(
        self, *, durability: Durability = Durability.POWER_CUT
    ) -> Iterator[sqlite3.Connection]:
        """One commit; a transaction within another joins it."""
        with self._lock:
            if self._batching:
                yield self._db
                return
            self._set_synchronous(durability)
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

    def write(
        self, statement: str, *values: object, durability: Durability = Durability.POWER_CUT
    ) -> int:
        """One statement in a transaction; returns how many rows it changed."""
        with self.transaction(durability=durability) as db:
            return db.execute(statement, values).rowcount

    def write_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each row, in one transaction."""
        with self.transaction() as db:
            db.executemany(statement, rows)

    def _set_synchronous(self, durability: Durability) -> None:
        """SQLite looks at `synchronous` when a transaction begins."""
        if durability is not self._durability:
            self._db.execute(f"PRAGMA synchronous={durability.value}")
            self._durability = durability

    @contextmanager
    def dry_run(self) -> Iterator[None]:
        """Whatever is written within is rolled back at the end."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            self._batching += 1
            try:
                yield
            finally:
                self._batching -= 1
                self._db.execute("ROLLBACK")

    def freeze(self) -> None:
        """All later reads of this connection see the file as it is now."""
        self._db.execute("BEGIN")

    @contextmanager
    def copied_to(self, path: Path) -> Iterator[Database]:
        """A copy of this database in the empty file `path`, which needs no WAL."""
        with closing(sqlite3.connect(path, isolation_level=None)) as copy:
            self._db.backup(copy)  # all pages under one read lock, which stops no writer of a WAL
            copy.execute("PRAGMA journal_mode=DELETE")
            yield Database(copy)

    def _commit(self) -> None:
        """The one place where something becomes durable."""
        self._db.execute("COMMIT")
