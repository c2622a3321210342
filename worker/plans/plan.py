"""What a plan is."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import HostdError
from worker.steps.step import Step


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps; `state` is what holds when all are true.

    `then` is the error that the request ends with all the same: the plan only settles what is left.
    """

    steps: tuple[Step, ...]
    state: str
    then: HostdError | None = None
