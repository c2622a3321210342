"""The shape of a step, and of what an engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from worker.ports import Host


class IrrevocableError(Exception):
    """Raised by `undo`: the step cannot be undone, so no step before it may be."""


class Step(Protocol):
    """A state of the host, named for what it makes true.

    `done` reads the machine, never a journal, and checks all that the step's docstring claims.
    `apply` changes the machine and may return facts for the result's `detail`.  `undo` takes back
    what `apply` may have begun; it is called only for a failing request that began the step.
    """

    @property
    def name(self) -> str: ...
    def done(self, host: Host) -> bool: ...
    def apply(self, host: Host) -> Mapping[str, Any] | None: ...
    def undo(self, host: Host) -> None: ...
