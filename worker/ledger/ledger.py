"""The ledger: every request this host has accepted, in one SQLite file, an object for each table.

Redis is transport; the ledger and the machine are the truth.  Rows of the outbox are written in the
transaction of the change that they report.  A commit is on the disk before the call returns
(`synchronous=FULL`, WAL), the journal's apart: SQLite's documentation, "PRAGMA synchronous".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from enqueue.results import Result
from worker.ledger.database import Database, Durability
from worker.ledger.instances import Change, Instances
from worker.ledger.journal import Journal
from worker.ledger.meta import Meta
from worker.ledger.outbox import Outbox
from worker.ledger.requests import Requests
from worker.ledger.reservations import Reservations


class Ledger:
    """The tables, and what spans them.  All methods may be called from any thread."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.journal = Journal(database)
        self.requests = Requests(database, self.journal)
        self.outbox = Outbox(database)
        self.instances = Instances(database)
        self.reservations = Reservations(database)
        self.meta = Meta(database)

    @classmethod
    def open(cls, path: Path) -> Ledger:
        """The ledger at `path`, which is made if it does not exist.

        Raises:
            StartupError: it cannot be opened, is damaged, or is of a newer hostd.
        """
        return cls(Database.open(path))

    def close(self) -> None:
        """Closes the file."""
        self.database.close()

    def transaction(
        self, *, durability: Durability = Durability.POWER_CUT
    ) -> AbstractContextManager[object]:
        """All changes within are one commit; a transaction within another joins it."""
        return self.database.transaction(durability=durability)

    def decide(
        self,
        request_id: str,
        result: Result,
        *,
        now_ms: int,
        events: Iterable[bytes] = (),
        change: Change | None = None,
    ) -> None:
        """Writes the result, its events and the instance's new status."""
        with self.transaction():
            self.journal.flush()
            self.requests.decide(request_id, result, now_ms=now_ms)
            self.record_events(events, change, now_ms=now_ms)

    def record_events(
        self, events: Iterable[bytes], change: Change | None = None, *, now_ms: int
    ) -> None:
        """Writes events, and an instance's new status."""
        with self.transaction():
            self.outbox.add(events)
            if change is not None:
                self.instances.put(change, now_ms=now_ms)

    def mark_published(self, request_ids: Sequence[str], *, events_upto: int) -> None:
        """The results of these requests, and events up to that number, are in Redis."""
        with self.transaction():
            self.requests.mark_published(request_ids)
            if events_upto:
                self.outbox.mark_published(events_upto)

    def prune(self, *, before_ms: int) -> int:
        """Forgets published requests decided before that time; returns how many."""
        with self.transaction():
            gone = self.requests.forget(before_ms=before_ms)
            self.journal.forget(gone)
            self.outbox.prune()
            return len(gone)
