"""The table `outbox`: events, numbered in the order in which Redis gets them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from worker.ledger.database import Database

_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True)
class Outbox:
    """Events until they are published, and the number of the last one."""

    _database: Database

    def add(self, events: Iterable[bytes]) -> None:
        """Appends these events."""
        self._database.write_many(
            "INSERT INTO outbox (event) VALUES (?)", [(event,) for event in events]
        )

    def unpublished(self) -> list[tuple[int, bytes]]:
        """Events that are not in Redis yet, with their numbers, in order; at most 1000."""
        return self._database.rows(
            "SELECT seq, event FROM outbox WHERE published = 0 ORDER BY seq LIMIT ?", _AT_ONCE
        )

    def count_unpublished(self) -> int:
        """How many events are not in Redis yet."""
        return int(self._database.row("SELECT COUNT(*) FROM outbox WHERE published = 0")[0])

    def mark_published(self, upto: int) -> None:
        """Events up to that number are in Redis."""
        self._database.write(
            "UPDATE outbox SET published = 1 WHERE published = 0 AND seq <= ?", upto
        )

    def prune(self) -> None:
        """Removes published events, all but the last."""
        self._database.write(
            "DELETE FROM outbox WHERE published = 1 AND seq <"
            " (SELECT COALESCE(MAX(seq), 0) FROM outbox)"
        )

    def last_number(self) -> int:
        """The highest number that an event ever had; 0 if there was none."""
        row = self._database.row("SELECT MAX(seq) FROM sqlite_sequence WHERE name = 'outbox'")
        return int(row[0] or 0)

    def skip_to(self, number: int) -> None:
        """The next event gets the number after this one."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM sqlite_sequence WHERE name = 'outbox'")
            db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', ?)", (number,))
