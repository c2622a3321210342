"""The ledger: every request this host has accepted, in one SQLite file.

Redis is transport; the ledger and the machine are the truth.  A request is `accepted`, then
`decided` (its result is written), then `told` (its result stands in Redis).  Rows of the outbox
enter with the change that they speak of.  A commit is on the disk before the call returns
(`synchronous=FULL`, WAL), the journal's apart: SQLite's documentation, "PRAGMA synchronous".
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from enqueue.results import Failed, Result, decode_result, encode_result
from worker.ledger.database import Durability
from worker.ledger.entries import Attempting, EntriesTable, LedgerEntry


class DeliveryKind(Enum):
    """What a delivery of a request id turned out to be."""

    NEW = "new"
    RERUN = "rerun"  # told and failed in a way that may be tried again
    IN_FLIGHT = "in_flight"
    UNTOLD = "untold"  # decided; its result is to be published again
    REPLAY = "replay"  # told for good; the first result again
    REUSED = "reused"  # the id names another request


@dataclass(frozen=True, slots=True)
class Change:
    """An instance's new status, written with the result that brought it about."""

    instance_id: str
    tenant_id: str
    pool_id: str
    status: str


def is_final(result: Result) -> bool:
    """Whether a later delivery gets this result again instead of a new run."""
    if not isinstance(result, Failed):
        return True
    final_codes = ("conflict/superseded", "conflict/cancelled", "conflict/overtaken")
    return result.failure_class in ("rejected", "lost") or result.code in final_codes


class Ledger(EntriesTable):
    """The file, open.  All methods may be called from any thread."""

    # ------------------------------------------------------------ accept

    def accept(
        self,
        request_id: str,
        *,
        digest: bytes,
        call: bytes,
        op: str,
        tenant_id: str | None,
        instance_id: str | None,
        now_ms: int,
    ) -> tuple[DeliveryKind, LedgerEntry]:
        """What this delivery is; a new one or a new run is on record when this returns."""
        with self.transaction() as db:
            row = db.execute(
                "SELECT digest, state, result FROM requests WHERE request_id = ?", (request_id,)
            ).fetchone()
            if row is None:
                db.execute(
                    "INSERT INTO requests (request_id, seq, digest, op, tenant_id, instance_id,"
                    " call, state, accepted_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 'accepted', ?)",
                    (
                        request_id,
                        self._next_seq(),
                        digest,
                        op,
                        tenant_id,
                        instance_id,
                        call,
                        now_ms,
                    ),
                )
                return DeliveryKind.NEW, self.entry(request_id)
            delivery = self._known(row, digest)
            if delivery is DeliveryKind.RERUN:
                self.run_again(request_id)
            return delivery, self.entry(request_id)

    def run_again(self, request_id: str) -> None:
        """A decided request is accepted once more, its earlier run forgotten."""
        with self.transaction() as db:
            db.execute("DELETE FROM journal WHERE request_id = ?", (request_id,))
            db.execute(
                "UPDATE requests SET state = 'accepted', runs = runs + 1, attempts = 0,"
                " began_at_ms = NULL, not_before_ms = 0, crashes = 0 WHERE request_id = ?",
                (request_id,),
            )

    @staticmethod
    def _known(row: Sequence[Any], digest: bytes) -> DeliveryKind:
        known_digest, state, result = row
        if known_digest != digest:
            return DeliveryKind.REUSED
        if state == "accepted":
            return DeliveryKind.IN_FLIGHT
        if state == "decided":
            return DeliveryKind.UNTOLD
        return DeliveryKind.REPLAY if is_final(decode_result(result)) else DeliveryKind.RERUN

    def _next_seq(self) -> int:
        row = self._db.execute("SELECT COALESCE(MAX(seq), 0) + 1 FROM requests").fetchone()
        return int(row[0])

    def renew(self, request_id: str) -> LedgerEntry:
        """The request, last in the order of acceptance: a later run is a later intent."""
        with self.transaction() as db:
            db.execute(
                "UPDATE requests SET seq = ? WHERE request_id = ?", (self._next_seq(), request_id)
            )
            return self.entry(request_id)

    def overtaken(self, entry: LedgerEntry) -> str | None:
        """The id of a later-accepted, decided request of the same instance, if there is one."""
        with self._lock:
            row = self._db.execute(
                "SELECT later.request_id FROM requests AS mine JOIN requests AS later"
                " ON later.instance_id = mine.instance_id AND later.seq > mine.seq"
                " AND later.state != 'accepted' WHERE mine.request_id = ? LIMIT 1",
                (entry.request_id,),
            ).fetchone()
            return None if row is None else str(row[0])

    # ------------------------------------------------------------ carry out

    def begin_attempt(self, request_id: str, now_ms: int, *, alone: bool = False) -> LedgerEntry:
        """The request with one more attempt on record, under way."""
        attempting = Attempting.ALONE if alone else Attempting.YES
        with self.transaction(survives=Durability.KILL) as db:
            db.execute(
                "UPDATE requests SET attempts = attempts + 1, attempting = ?,"
                " began_at_ms = COALESCE(began_at_ms, ?) WHERE request_id = ?",
                (attempting, now_ms, request_id),
            )
            return self.entry(request_id)

    def back_off(self, request_id: str, not_before_ms: int) -> None:
        """The next attempt is not made before that time, not even after a restart."""
        with self.transaction() as db:
            db.execute(
                "UPDATE requests SET not_before_ms = ?, attempting = 0 WHERE request_id = ?",
                (not_before_ms, request_id),
            )

    def unattempted(self, request_id: str) -> None:
        """The attempt under way does not count: a shutdown cut it short."""
        with self.transaction() as db:
            db.execute(
                "UPDATE requests SET attempts = attempts - 1, attempting = 0 WHERE request_id = ?"
                " AND state = 'accepted' AND attempting IN (1, 2)",
                (request_id,),
            )

    # ------------------------------------------------------------ decide, tell

    def decide(
        self,
        request_id: str,
        result: Result,
        *,
        now_ms: int,
        events: Iterable[bytes] = (),
        change: Change | None = None,
    ) -> None:
        """The result is written, with its events and the instance's new status."""
        code = result.code if isinstance(result, Failed) else None
        with self.transaction() as db:
            self._flush_finished(db)
            db.execute(
                "UPDATE requests SET state = 'decided', result = ?, code = ?, decided_at_ms = ?,"
                " attempting = 0 WHERE request_id = ?",
                (encode_result(result), code, now_ms, request_id),
            )
            db.executemany("INSERT INTO outbox (event) VALUES (?)", [(event,) for event in events])
            if change is not None:
                self._changed(db, change, now_ms)

    def note(self, events: Iterable[bytes], change: Change | None, *, now_ms: int) -> None:
        """What hostd found out by itself: events, and an instance's new status."""
        with self.transaction() as db:
            db.executemany("INSERT INTO outbox (event) VALUES (?)", [(event,) for event in events])
            if change is not None:
                self._changed(db, change, now_ms)

    @staticmethod
    def _changed(db: sqlite3.Connection, change: Change, now_ms: int) -> None:
        db.execute(
            "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?)",
            (change.instance_id, change.tenant_id, change.pool_id, change.status, now_ms),
        )

    def untold_events(self) -> list[tuple[int, bytes]]:
        """Events that are not in Redis yet, in order."""
        with self._lock:
            return self._db.execute(
                "SELECT seq, event FROM outbox WHERE published = 0 ORDER BY seq LIMIT 1000"
            ).fetchall()

    def told(self, request_ids: Sequence[str], *, events_upto: int) -> None:
        """These requests' results, and events up to that number, stand in Redis."""
        with self.transaction() as db:
            db.executemany(
                "UPDATE requests SET state = 'told' WHERE request_id = ? AND state = 'decided'",
                [(request_id,) for request_id in request_ids],
            )
            if events_upto:
                db.execute(
                    "UPDATE outbox SET published = 1 WHERE published = 0 AND seq <= ?",
                    (events_upto,),
                )

    def prune(self, *, before_ms: int) -> int:
        """Told requests decided before that time are forgotten; returns how many."""
        with self.transaction() as db:
            old = "SELECT request_id FROM requests WHERE state = 'told' AND decided_at_ms < ?"
            db.execute(f"DELETE FROM journal WHERE request_id IN ({old})", (before_ms,))  # noqa: S608  constant text
            gone = db.execute(
                "DELETE FROM requests WHERE state = 'told' AND decided_at_ms < ?", (before_ms,)
            ).rowcount
            db.execute(
                "DELETE FROM outbox WHERE published = 1 AND seq <"
                " (SELECT COALESCE(MAX(seq), 0) FROM outbox)"
            )
            return gone
