"""The gate before the turns: closed while the host drains, it keeps new work in order outside.

What is parked holds no key, so nothing waits behind it but what must.  Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from worker.scheduling.waits import Turn

T = TypeVar("T", bound=Hashable)
IsBarred = Callable[[Turn, Collection[object]], bool]
"""Whether a turn must wait outside, beside these parked subjects."""


class Admission(Generic[T]):
    """Open at first."""

    def __init__(self) -> None:
        self._barred: IsBarred | None = None
        self._parked: dict[T, Turn] = {}

    def close(self, barred: IsBarred) -> None:
        """From now on it stops what is barred."""
        self._barred = barred

    def open(self) -> list[tuple[T, Turn]]:
        """Stops nothing more; returns what was parked, in the order of its coming."""
        self._barred = None
        parked, self._parked = list(self._parked.items()), {}
        return parked

    def is_barred(self, turn: Turn) -> bool:
        """Whether it would stop this turn now."""
        if self._barred is None:
            return False
        return self._barred(turn, [parked.subject for parked in self._parked.values()])

    def park(self, item: T, turn: Turn) -> bool:
        """Whether `item` is parked here instead of getting in line."""
        if not self.is_barred(turn):
            return False
        self._parked[item] = turn
        return True

    def remove(self, item: T) -> None:
        """`item` is not parked."""
        self._parked.pop(item, None)

    def __contains__(self, item: T) -> bool:
        return item in self._parked
