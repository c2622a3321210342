"""What a plan is."""

from __future__ import annotations

from dataclasses import dataclass

from worker.errors import HostdError
from worker.steps.step import Step


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered steps; `state` is what holds when all are true.

    `fails_with` is the error that the request ends with even though all steps succeeded.
    """

    steps: tuple[Step, ...]
    state: str
    fails_with: HostdError | None = None
