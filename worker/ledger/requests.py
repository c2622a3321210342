"""The table `requests`: every request that this host has accepted.

A request is `accepted`, then `decided` (its result is written), then `published` (its result is in
Redis).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from enqueue.results import Failed, Result, encode_result
from worker.ledger.database import Database, Durability
from worker.ledger.entries import (
    COLUMNS,
    Attempting,
    DeliveryKind,
    LedgerEntry,
    RawRequest,
    entry_of,
    kind_of,
)
from worker.ledger.journal import Journal

_ENTRIES: Final = f"SELECT {COLUMNS} FROM requests"  # noqa: S608  constant text
_RAW: Final = f"SELECT {', '.join(RawRequest._fields)} FROM requests"  # noqa: S608  constant text


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests by id, in the order of acceptance."""

    _database: Database
    _journal: Journal

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
        with self._database.transaction() as db:
            known = self.raw(request_id)
            if known is None:
                db.execute(
                    "INSERT INTO requests (request_id, seq, digest, op, tenant_id, instance_id,"
                    " call, state, accepted_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, 'accepted', ?)",
                    (request_id, self._next_seq(), digest, op, tenant_id, instance_id, call,
                     now_ms),
                )  # fmt: skip
                return DeliveryKind.NEW, self.entry(request_id)
            kind = kind_of(known, digest)
            if kind is DeliveryKind.RERUN:
                self.reopen(request_id)
            return kind, self.entry(request_id)

    def reopen(self, request_id: str) -> None:
        """Accepts a decided request once more and forgets its earlier run."""
        with self._database.transaction() as db:
            self._journal.forget([request_id])
            db.execute(
                "UPDATE requests SET state = 'accepted', runs = runs + 1, attempts = 0,"
                " began_at_ms = NULL, not_before_ms = 0, crashes = 0 WHERE request_id = ?",
                (request_id,),
            )

    def move_to_end(self, request_id: str) -> LedgerEntry:
        """The request, last in the order of acceptance: a later run is a later intent."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE requests SET seq = ? WHERE request_id = ?", (self._next_seq(), request_id)
            )
            return self.entry(request_id)

    def _next_seq(self) -> int:
        return int(self._database.row("SELECT COALESCE(MAX(seq), 0) + 1 FROM requests")[0])

    # ------------------------------------------------------------ attempts

    def begin_attempt(self, request_id: str, now_ms: int, *, alone: bool = False) -> LedgerEntry:
        """The request with one more attempt on record, under way."""
        attempting = Attempting.ALONE if alone else Attempting.YES
        with self._database.transaction(durability=Durability.KILL) as db:
            db.execute(
                "UPDATE requests SET attempts = attempts + 1, attempting = ?,"
                " began_at_ms = COALESCE(began_at_ms, ?) WHERE request_id = ?",
                (attempting, now_ms, request_id),
            )
            return self.entry(request_id)

    def back_off(self, request_id: str, not_before_ms: int) -> None:
        """Forbids the next attempt before that time, even after a restart."""
        self._database.write(
            "UPDATE requests SET not_before_ms = ?, attempting = 0 WHERE request_id = ?",
            not_before_ms, request_id,
        )  # fmt: skip

    def uncount_attempt(self, request_id: str) -> None:
        """The attempt under way does not count: a shutdown interrupted it."""
        self._database.write(
            "UPDATE requests SET attempts = attempts - 1, attempting = 0 WHERE request_id = ?"
            " AND state = 'accepted' AND attempting IN (1, 2)",
            request_id,
        )

    def mark_suspects(self) -> tuple[int, int]:
        """How many requests were in an attempt when hostd died, and how many suspects there are.

        One that was alone in its attempt has one more crash on record.
        """
        with self._database.transaction() as db:
            interrupted = db.execute(
                "SELECT request_id, attempting FROM requests"
                " WHERE state = 'accepted' AND attempting IN (1, 2)"
            ).fetchall()
            if [row[1] for row in interrupted] == [Attempting.ALONE]:
                db.execute(
                    "UPDATE requests SET crashes = crashes + 1 WHERE request_id = ?",
                    interrupted[0][:1],
                )
            db.execute(
                "UPDATE requests SET attempting = ?"
                " WHERE state = 'accepted' AND attempting IN (1, 2)",
                (Attempting.SUSPECT,),
            )
            suspects = db.execute(
                "SELECT COUNT(*) FROM requests WHERE state = 'accepted' AND attempting = ?",
                (Attempting.SUSPECT,),
            ).fetchone()[0]
            return len(interrupted), int(suspects)

    # ------------------------------------------------------------ decide, publish, forget

    def decide(self, request_id: str, result: Result, *, now_ms: int) -> None:
        """Writes the result."""
        code = result.code if isinstance(result, Failed) else None
        self._database.write(
            "UPDATE requests SET state = 'decided', result = ?, code = ?, decided_at_ms = ?,"
            " attempting = 0 WHERE request_id = ?",
            encode_result(result), code, now_ms, request_id,
        )  # fmt: skip

    def mark_published(self, request_ids: Iterable[str]) -> None:
        """The results of these requests are in Redis."""
        self._database.write_many(
            "UPDATE requests SET state = 'published' WHERE request_id = ? AND state = 'decided'",
            [(request_id,) for request_id in request_ids],
        )

    def forget(self, *, before_ms: int) -> list[str]:
        """Removes published requests that were decided before that time; returns their ids."""
        with self._database.transaction() as db:
            rows = db.execute(
                "DELETE FROM requests WHERE state = 'published' AND decided_at_ms < ?"
                " RETURNING request_id",
                (before_ms,),
            ).fetchall()
            return [str(row[0]) for row in rows]

    # ------------------------------------------------------------ read

    def entry(self, request_id: str) -> LedgerEntry:
        """The request.

        Raises:
            KeyError: unknown.
        """
        row = self._database.row(f"{_ENTRIES} WHERE request_id = ?", request_id)
        if row is None:
            raise KeyError(request_id)
        return entry_of(row)

    def raw(self, request_id: str) -> RawRequest | None:
        """The request's row; None if it is unknown."""
        row = self._database.row(f"{_RAW} WHERE request_id = ?", request_id)
        return None if row is None else RawRequest(*row)

    def each_raw(self, *, since_ms: int = 0, unfinished: bool = False) -> Iterator[RawRequest]:
        """Rows of requests accepted since then, in order; for a reader of its own."""
        wanted = " AND state = 'accepted'" if unfinished else ""
        query = f"{_RAW} WHERE accepted_at_ms >= ?{wanted} ORDER BY seq"
        return (RawRequest(*row) for row in self._database.each(query, since_ms))

    def unfinished(self) -> list[LedgerEntry]:
        """Accepted and undecided requests, in order."""
        return self._entries("WHERE state = 'accepted' ORDER BY seq")

    def unpublished(self) -> list[LedgerEntry]:
        """Decided requests whose result may not be in Redis, in order."""
        return self._entries("WHERE state = 'decided' ORDER BY seq")

    def failed(self, op: str, failure_class: str, *, since_ms: int) -> list[LedgerEntry]:
        """Requests of that operation decided as failed, in that class, since then, in order."""
        return self._entries(
            "WHERE state != 'accepted' AND op = ? AND code LIKE ? AND decided_at_ms >= ?"
            " ORDER BY seq",
            op, f"{failure_class}/%", since_ms,
        )  # fmt: skip

    def done(self, op: str, *, limit: int) -> list[LedgerEntry]:
        """The latest requests of that operation that ended well, newest first."""
        return self._entries(
            "WHERE state != 'accepted' AND op = ? AND code IS NULL ORDER BY seq DESC LIMIT ?",
            op, limit,
        )  # fmt: skip

    def history(self, instance_id: str, *, limit: int = 20) -> list[LedgerEntry]:
        """The latest requests of an instance, newest first."""
        return self._entries("WHERE instance_id = ? ORDER BY seq DESC LIMIT ?", instance_id, limit)

    def _entries(self, where: str, *values: object) -> list[LedgerEntry]:
        return [entry_of(row) for row in self._database.rows(f"{_ENTRIES} {where}", *values)]

    def overtaken(self, entry: LedgerEntry) -> str | None:
        """The id of a later-accepted, decided request of the same instance, if there is one."""
        row = self._database.row(
            "SELECT later.request_id FROM requests AS mine JOIN requests AS later"
            " ON later.instance_id = mine.instance_id AND later.seq > mine.seq"
            " AND later.state != 'accepted' WHERE mine.request_id = ? LIMIT 1",
            entry.request_id,
        )
        return None if row is None else str(row[0])

    def busy(self, *, since_row: int | None = None) -> tuple[frozenset[str], frozenset[str]]:
        """The instances, and the tenants, that an unfinished request is about, or with `since_row`
        any request that came after that `last_row`."""
        wanted = "state = 'accepted' AND rowid > ?" if since_row is None else "rowid > ?"
        rows = self._database.rows(
            f"SELECT DISTINCT instance_id, tenant_id FROM requests WHERE {wanted}",  # noqa: S608  constant text
            since_row or 0,
        )
        instances, tenants = ({row[n] for row in rows if row[n]} for n in (0, 1))
        return frozenset(instances), frozenset(tenants)

    def last_row(self) -> int:
        """The number of the latest request; later ones have higher numbers."""
        return int(self._database.row("SELECT COALESCE(MAX(rowid), 0) FROM requests")[0])

    # ------------------------------------------------------------ count

    def oldest_ms(self, *, unfinished: bool = True) -> int | None:
        """When the oldest (unfinished) request was accepted, in Unix milliseconds."""
        where = " WHERE state = 'accepted'" if unfinished else ""
        row = self._database.row(f"SELECT MIN(accepted_at_ms) FROM requests{where}")  # noqa: S608  constant text
        return None if row[0] is None else int(row[0])

    def count_by(self, column: Literal["state", "op"]) -> dict[str, int]:
        """How many requests have each value of the column."""
        query = f"SELECT {column}, COUNT(*) FROM requests GROUP BY {column}"  # noqa: S608  a literal
        return dict(self._database.rows(query))

    def count_by_code(self) -> dict[str | None, int]:
        """How many decided requests have each error code; None counts those that ended well."""
        return dict(
            self._database.rows(
                "SELECT code, COUNT(*) FROM requests WHERE state != 'accepted' GROUP BY code"
            )
        )
