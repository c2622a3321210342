"""The table `meta`: single facts about this ledger and its host, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.ledger.database import Database

LOST_BEFORE: Final = "lost_before_ms"
BACKUP_AT: Final = "backup_at_ms"  # only copies made by `hostd ledger backup` have it


@dataclass(frozen=True, slots=True)
class Meta:
    """Values by key."""

    _database: Database

    def get(self, key: str) -> str | None:
        """The value of `key`; None if it has none."""
        row = self._database.row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set(self, key: str, value: str) -> None:
        """Stores the value of `key`."""
        self._database.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def delete(self, key: str) -> None:
        """Removes `key` and its value."""
        self._database.write("DELETE FROM meta WHERE key = ?", key)

    def lost_before_ms(self) -> int | None:
        """Until when requests may have been forgotten (Unix milliseconds); None if none were."""
        value = self.get(LOST_BEFORE)
        return None if value is None else int(value)
