"""The journal: which steps a request has begun, and which of them are known to hold."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from worker.ledger.database import Database, Durability


class Journal(Database):
    """The journal's part of the ledger."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._finished: list[tuple[int, str, str]] = []

    def began(self, request_id: str, step: str, now_ms: int) -> None:
        """The step is about to change the machine; a kill cannot undo this entry."""
        with self.transaction(survives=Durability.KILL) as db:
            self._flush_finished(db)
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

    def begun_steps(self, request_id: str) -> frozenset[str]:
        """The steps that this run began, finished or not."""
        with self._lock:
            rows = self._db.execute("SELECT step FROM journal WHERE request_id = ?", (request_id,))
            return frozenset(row[0] for row in rows)

    def undone(self, request_id: str, steps: Sequence[str]) -> None:
        """These steps were taken back: they are not this request's any more."""
        with self.transaction() as db:
            self._flush_finished(db)
            db.executemany(
                "DELETE FROM journal WHERE request_id = ? AND step = ?",
                [(request_id, step) for step in steps],
            )

    def _flush_finished(self, db: sqlite3.Connection) -> None:
        db.executemany(
            "UPDATE journal SET finished_at_ms = ? WHERE request_id = ? AND step = ?",
            self._finished,
        )
        self._finished.clear()

    def journal(self, request_id: str) -> list[tuple[str, int, int | None]]:
        """(step, began ms, finished ms or None) of a request's current run, in order."""
        with self._lock:
            return self._db.execute(
                "SELECT step, began_at_ms, finished_at_ms FROM journal WHERE request_id = ?"
                " ORDER BY began_at_ms",
                (request_id,),
            ).fetchall()
