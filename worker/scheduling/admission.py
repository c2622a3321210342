"""Admission before the turns: while the host drains, new work is parked here in order.

A parked task holds no key, so it delays only those that must wait for it.  Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

from worker.scheduling.waits import Turn

T = TypeVar("T", bound=Hashable)
IsBarred = Callable[[Turn, Collection[object]], bool]
"""Whether a turn must wait, given the `in_flight` of what is parked already."""


class Admission(Generic[T]):
    """Decides which tasks may join the queues of turns; open at first."""

    def __init__(self) -> None:
        self._barred: IsBarred | None = None
        self._parked: dict[T, Turn] = {}

    def close(self, barred: IsBarred) -> None:
        """Parks barred turns from now on."""
        self._barred = barred

    def open(self) -> list[tuple[T, Turn]]:
        """Bars nothing from now on; returns what was parked, in the order in which it came."""
        self._barred = None
        parked, self._parked = list(self._parked.items()), {}
        return parked

    def is_barred(self, turn: Turn) -> bool:
        """Whether this turn would be parked now."""
        if self._barred is None:
            return False
        return self._barred(turn, [parked.in_flight for parked in self._parked.values()])

    def park(self, item: T, turn: Turn) -> bool:
        """Parks `item` if its turn is barred; returns whether it did."""
        if not self.is_barred(turn):
            return False
        self._parked[item] = turn
        return True

    def remove(self, item: T) -> None:
        """Forgets `item` if it is parked."""
        self._parked.pop(item, None)

    def __contains__(self, item: T) -> bool:
        return item in self._parked
