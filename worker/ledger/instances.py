"""The table `instances`: the status of each instance as the last event about it said."""

from __future__ import annotations

from dataclasses import dataclass

from worker.ledger.database import Database


@dataclass(frozen=True, slots=True)
class Change:
    """An instance's new status, written with the result or the event that says so."""

    instance_id: str
    tenant_id: str
    pool_id: str
    status: str


@dataclass(frozen=True, slots=True)
class Instances:
    """Statuses by instance."""

    _database: Database

    def put(self, change: Change, *, now_ms: int) -> None:
        """Stores the instance's new status."""
        self._database.write(
            "INSERT OR REPLACE INTO instances VALUES (?, ?, ?, ?, ?)",
            change.instance_id, change.tenant_id, change.pool_id, change.status, now_ms,
        )  # fmt: skip

    def status(self, instance_id: str) -> str | None:
        """The status that was last published or is in the outbox; None if no event had one."""
        row = self._database.row("SELECT status FROM instances WHERE instance_id = ?", instance_id)
        return None if row is None else str(row[0])

    def count_by_status(self) -> dict[str, int]:
        """How many instances have each status."""
        return dict(self._database.rows("SELECT status, COUNT(*) FROM instances GROUP BY status"))

    def clear(self) -> None:
        """Removes every row."""
        self._database.write("DELETE FROM instances")
