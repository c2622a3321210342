"""Runs operations at every k-th point, and counts points and violations."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.process.fuse import At
from tests.crash.process.host import Machine
from tests.crash.process.operations import Operation
from tests.crash.process.points import Enumeration, Violation
from tests.fixtures.redis import RedisServer


@dataclass(slots=True)
class Tally:
    """The tried points, of all points, and the violations."""

    every: int
    tried: int = 0
    points: int = 0
    violations: list[Violation] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.tried} crash points, {len(self.violations)} violations"
        return counts if self.every == 1 else f"{counts} (every {self.every}th of {self.points})"


def enumerated(
    operation: Operation, tally: Tally, say: Callable[[str], None], *, offset: int
) -> None:
    """Runs the operation at every k-th point from `offset` on; adds to `tally`."""
    with tempfile.TemporaryDirectory(prefix="hostd-redis-") as directory:
        redis = RedisServer(Path(directory))
        redis.start()
        try:
            for at, points, found in _played(operation, redis, tally.every, offset):
                tally.tried += at is not None
                tally.points += points
                tally.violations += found
                for violation in found:
                    say(f"VIOLATION: {violation}")
        finally:
            redis.stop()


def _played(
    operation: Operation, redis: RedisServer, every: int, offset: int
) -> Iterator[tuple[At | None, int, list[Violation]]]:
    chosen: list[At] | None = None
    first = 1
    while chosen is None or chosen:
        redis.reset()
        with Machine(redis) as machine:
            enumeration = Enumeration(machine, operation, first)
            if chosen is None:
                points = enumeration.points()
                chosen = points[offset::every]
                yield None, len(points), []
            while chosen:
                at = chosen.pop(0)
                try:
                    found = enumeration.violations(at)
                except (AssertionError, TimeoutError) as error:
                    # The next point gets a new host.
                    yield at, 0, [Violation(operation.name, at, "", f"{error}\n{_end(machine)}")]
                    break
                yield at, 0, found


def _end(machine: Machine) -> str:
    return machine.hostd.said()[-3000:]
