"""What an action is, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs


@dataclass(frozen=True, slots=True)
class Action:
    """What hostd does with an instance: how it is planned, and what is reserved before that."""

    name: str
    plan: Callable[[PlanInputs], Plan]
    needs_place: bool = False  # in its tenant's network
    needs_quota: bool = False


def unchanged(inputs: PlanInputs) -> Plan:
    """The goal holds: no step."""
    return Plan((), inputs.facts.status or "destroyed")


UNCHANGED: Final = Action("unchanged", unchanged)
