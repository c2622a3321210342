"""From a request and the facts to ordered steps.  Pure: no I/O, no clock, no randomness."""

from __future__ import annotations

from typing import Final, TypeVar, assert_never

from enqueue.requests import (
    DestroyInstance,
    InstanceRequest,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
    describe,
)
from worker.plans import sleep
from worker.plans import start_stop as instance
from worker.plans.action import Action
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import Place
from worker.plans.plan import Plan
from worker.plans.settings import Settings
from worker.plans.shared import PlanInputs
from worker.steps.record import Audited

T = TypeVar("T")

# What the audit log calls a request that was carried out.
ACTIONS: Final[dict[type[InstanceRequest], str]] = {
    StartInstance: "InstanceStarted",
    StopInstance: "InstanceStopped",
    SleepInstance: "InstanceSlept",
    WakeInstance: "InstanceWoken",
    DestroyInstance: "InstanceDestroyed",
}


def instance_plan(
    request: InstanceRequest,
    action: Action,
    facts: InstanceFacts,
    place: Place | None,
    *,
    settings: Settings,
    request_id: str,
) -> Plan:
    """The steps that make `request` true on this host, in order.

    The status is recorded last: as long as it is not, the request is not done.

    Raises:
        Conflict: something that the plan is built from is missing.
    """
    plan = _unaudited(request, action, PlanInputs(facts, place, settings), request_id)
    if not plan.steps or facts.tenant is None or plan.fails_with is not None:
        return plan
    audited = Audited(facts.ref, ACTIONS[type(request)], request_id, facts.at, describe(request))
    return Plan((*plan.steps[:-1], audited, plan.steps[-1]), plan.state)


def _unaudited(
    request: InstanceRequest, action: Action, inputs: PlanInputs, request_id: str
) -> Plan:
    facts, place = inputs.facts, inputs.place
    match action:
        case Action.UNCHANGED:
            return Plan((), facts.status or "destroyed")
        case Action.BOOT:
            return instance.start(inputs, _sure(place))
        case Action.RESUME:
            return instance.resume(inputs, _sure(place))
        case Action.STOP:
            return instance.stop(inputs)
        case Action.SLEEP:
            return sleep.sleep(inputs, request_id, drain_s=_drain_s(request, inputs))
        case Action.FINISH_SLEEP:
            return sleep.finish_sleep(inputs)
        case Action.WAKE:
            return sleep.wake(inputs, _sure(place), _sure(facts.image))
        case Action.FINISH_WAKE:
            return sleep.finish_wake(inputs, _sure(place))
        case Action.DESTROY:
            wipe = isinstance(request, DestroyInstance) and request.wipe_volumes
            return instance.destroy(inputs, wipe_volumes=wipe)
        case Action.LOST:
            return instance.lost(inputs)
        case _:
            assert_never(action)


def _drain_s(request: InstanceRequest, inputs: PlanInputs) -> float | None:
    """How long the guest may take to drain; None: it is not asked."""
    asks = request if isinstance(request, SleepInstance) else None
    if not inputs.policy.guest_agent or (asks is not None and asks.force):
        return None
    if asks is not None and asks.drain_timeout_secs is not None:
        return inputs.bounded(asks.drain_timeout_secs)
    return inputs.bounded(inputs.policy.drain_timeout_seconds)


def _sure(value: T | None) -> T:
    """`value`, which the action implies."""
    assert value is not None  # noqa: S101  an action that needs a place has reserved one
    return value
