"""The shape of a step, and of what an engine runs."""

from __future__ import annotations

from typing import Protocol

from worker.ports import Host


class Step(Protocol):
    """A state of the host, named for what it makes true.

    `done` reads the machine, never a journal, and checks all that the step's docstring claims.
    `apply` changes the machine; `undo` takes back what `apply` may have begun, and is called only
    for a failing request that began the step.  A plan's `pivot` is the point of no return: once
    begun, nothing before it is undone.
    """

    @property
    def name(self) -> str: ...
    @property
    def pivot(self) -> bool: ...
    def done(self, host: Host) -> bool: ...
    def apply(self, host: Host) -> None: ...
    def undo(self, host: Host) -> None: ...
