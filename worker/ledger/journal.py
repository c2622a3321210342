"""The table `journal`: which steps a request has begun, and which of them are finished."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from worker.ledger.database import Database, Durability


class Journal:
    """Steps by request."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._finished: list[tuple[int, str, str]] = []

    def began(self, request_id: str, step: str, now_ms: int) -> None:
        """Records that the step is about to change the machine; the entry survives a kill."""
        with self._database.transaction(durability=Durability.KILL) as db:
            self.flush()
            db.execute(
                "INSERT INTO journal (request_id, step, began_at_ms) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET began_at_ms = excluded.began_at_ms,"
                " finished_at_ms = NULL",
                (request_id, step, now_ms),
            )

    def finished(self, request_id: str, step: str, now_ms: int) -> None:
        """The step holds.  Written with the next commit: a lost `finished` costs one more look."""
        with self._lock:
            self._finished.append((now_ms, request_id, step))

    def flush(self) -> None:
        """Writes what `finished` was called with; within a transaction."""
        with self._lock:
            finished, self._finished = self._finished, []
        if finished:
            self._database.write_many(
                "UPDATE journal SET finished_at_ms = ? WHERE request_id = ? AND step = ?", finished
            )

    def begun_steps(self, request_id: str) -> frozenset[str]:
        """The steps that this run began, finished or not."""
        rows = self._database.rows("SELECT step FROM journal WHERE request_id = ?", request_id)
        return frozenset(row[0] for row in rows)

    def undone(self, request_id: str, steps: Sequence[str]) -> None:
        """Removes these steps: the request has taken them back."""
        with self._database.transaction() as db:
            self.flush()
            db.executemany(
                "DELETE FROM journal WHERE request_id = ? AND step = ?",
                [(request_id, step) for step in steps],
            )

    def forget(self, request_ids: Iterable[str]) -> None:
        """Removes every step of these requests."""
        self._database.write_many(
            "DELETE FROM journal WHERE request_id = ?", [(id_,) for id_ in request_ids]
        )

    def steps(self, request_id: str) -> list[tuple[str, int, int | None]]:
        """(step, began ms, finished ms or None) of a request's current run, in order."""
        return self._database.rows(
            "SELECT step, began_at_ms, finished_at_ms FROM journal WHERE request_id = ?"
            " ORDER BY began_at_ms",
            request_id,
        )

    def unknown_requests(self) -> list[str]:
        """Requests that have steps here but are not on record."""
        rows = self._database.rows(
            "SELECT DISTINCT request_id FROM journal"
            " WHERE request_id NOT IN (SELECT request_id FROM requests)"
        )
        return [str(row[0]) for row in rows]
