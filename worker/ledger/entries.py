"""What the ledger says of requests: its rows, read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from enqueue.results import Result, decode_result
from worker.ledger.journal import Journal


class Attempting(IntEnum):
    """Whether an attempt at a request is under way, as a crash leaves it on record."""

    NO = 0
    YES = 1
    ALONE = 2  # while no other request was attempted
    SUSPECT = 3  # it was under way when a hostd died, and has not been tried again


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request of the ledger."""

    request_id: str
    seq: int
    call: bytes
    state: str
    runs: int
    attempts: int
    accepted_at_ms: int
    began_at_ms: int | None
    not_before_ms: int
    crashes: int
    attempting: Attempting
    result: Result | None

    @property
    def begun(self) -> bool:
        """Whether this run has had an attempt, finished or not."""
        return self.began_at_ms is not None


class EntriesTable(Journal):
    """The reading part of the ledger."""

    def entry(self, request_id: str) -> LedgerEntry:
        """The request.

        Raises:
            KeyError: unknown.
        """
        found = self._entries("WHERE request_id = ?", request_id)
        if not found:
            raise KeyError(request_id)
        return found[0]

    def unfinished(self) -> list[LedgerEntry]:
        """Accepted and undecided requests, in order of acceptance."""
        return self._entries("WHERE state = 'accepted' ORDER BY seq")

    def untold(self) -> list[LedgerEntry]:
        """Decided requests whose result may not stand in Redis, in order."""
        return self._entries("WHERE state = 'decided' ORDER BY seq")

    def failed(self, op: str, failure_class: str, *, since_ms: int) -> list[LedgerEntry]:
        """Requests of that operation decided as failed, in that class, since then, in order."""
        return self._entries(
            "WHERE state != 'accepted' AND op = ? AND code LIKE ? AND decided_at_ms >= ?"
            " ORDER BY seq",
            op,
            f"{failure_class}/%",
            since_ms,
        )

    def done(self, op: str, *, limit: int) -> list[LedgerEntry]:
        """The latest requests of that operation that ended well, newest first."""
        return self._entries(
            "WHERE state != 'accepted' AND op = ? AND code IS NULL ORDER BY seq DESC LIMIT ?",
            op,
            limit,
        )

    def history(self, instance_id: str, *, limit: int = 20) -> list[LedgerEntry]:
        """The latest requests of an instance, newest first."""
        return self._entries("WHERE instance_id = ? ORDER BY seq DESC LIMIT ?", instance_id, limit)

    def _entries(self, where: str, *values: object) -> list[LedgerEntry]:
        with self._lock:
            rows = self._db.execute(
                "SELECT request_id, seq, call, state, runs, attempts, accepted_at_ms, began_at_ms,"  # noqa: S608  `where` is a constant of this module
                f" not_before_ms, crashes, attempting, result FROM requests {where}",
                values,
            ).fetchall()
        return [_entry(row) for row in rows]

    def busy(self, *, since_row: int | None = None) -> tuple[frozenset[str], frozenset[str]]:
        """The instances, and the tenants, that an unfinished request is about, or with `since_row`
        any request that came after that `last_row`."""
        wanted = "state = 'accepted' AND rowid > ?" if since_row is None else "rowid > ?"
        with self._lock:
            rows = self._db.execute(
                f"SELECT DISTINCT instance_id, tenant_id FROM requests WHERE {wanted}",  # noqa: S608  constant text
                (since_row or 0,),
            ).fetchall()
        instances, tenants = ({row[n] for row in rows if row[n]} for n in (0, 1))
        return frozenset(instances), frozenset(tenants)

    def last_row(self) -> int:
        """The number of the latest request; those to come have higher ones."""
        with self._lock:
            row = self._db.execute("SELECT COALESCE(MAX(rowid), 0) FROM requests").fetchone()
            return int(row[0])

    def reservations(self) -> list[tuple[str, str, str]]:
        """What is held: (kind, key, owner); see `worker.request.reserve`."""
        with self._lock:
            return self._db.execute("SELECT kind, key, owner FROM reservations").fetchall()

    def oldest_ms(self) -> int | None:
        """When the oldest unfinished request was accepted, in Unix milliseconds."""
        with self._lock:
            row = self._db.execute(
                "SELECT MIN(accepted_at_ms) FROM requests WHERE state = 'accepted'"
            ).fetchone()
        return None if row[0] is None else int(row[0])

    def status(self, instance_id: str) -> str | None:
        """The instance's status as it was last told of; None if it never was."""
        with self._lock:
            row = self._db.execute(
                "SELECT status FROM instances WHERE instance_id = ?", (instance_id,)
            ).fetchone()
        return None if row is None else str(row[0])

    def statuses(self) -> dict[str, int]:
        """How many instances stand at each status."""
        with self._lock:
            return dict(
                self._db.execute(
                    "SELECT status, COUNT(*) FROM instances GROUP BY status"
                ).fetchall()
            )


def _entry(row: Sequence[Any]) -> LedgerEntry:
    attempting, raw = row[-2:]
    values = (*row[:-2], Attempting(attempting), decode_result(raw) if raw else None)
    return LedgerEntry(*values)
