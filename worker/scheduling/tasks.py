"""The executors' bookkeeping: a submitted story, and a queue of those that may run."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker.scheduling.waits import Wait


@dataclass(eq=False, slots=True)
class Task:
    """One story; `in_flight` is that of its turn, `number` its place in the order of submission."""

    story: Iterator[Wait]
    number: int
    in_flight: object = None
    has_turn: bool = False
    running: bool = False
    removed: bool = False


@dataclass(slots=True)
class ReadyQueue:
    """Tasks that may run now, lowest number first."""

    heap: list[tuple[int, Task]] = field(default_factory=list)

    def push(self, task: Task) -> None:
        """Adds a task."""
        heapq.heappush(self.heap, (task.number, task))

    def pop(self) -> Task | None:
        """Removes and returns the next task; None if there is none."""
        while self.heap:
            _, task = heapq.heappop(self.heap)
            if not task.removed:
                return task
        return None
