"""The table of operations: what the rest of hostd must know of each, asked here and nowhere else.

The request structs are in enqueue/requests.py.  Each row names the module of this package that
chooses the action and makes the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from enqueue.requests import (
    DestroyInstance,
    InstanceRequest,
    NetworkRequest,
    Ping,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    WakeInstance,
    describe,
)
from worker.errors import Conflict
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.plans import destroy, network, sleep, start, stop, wake
from worker.plans.action import Action
from worker.plans.facts import InstanceFacts, NetworkFacts, instance_facts
from worker.plans.plan import Plan
from worker.plans.settings import Settings
from worker.plans.shared import PlanInputs
from worker.ports import Host
from worker.steps.record import Audited

R = TypeVar("R", bound=Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[R]):
    """What every operation has; each default is the case that needs no thought."""

    request: type[R]
    new_work: bool = False  # waits while the host drains
    supersedes: tuple[type[Request], ...] = ()  # these, of its instance, end if they still wait
    retried_at_start: bool = False  # taken up first, and again after a transient failure
    runs_despite_crashes: bool = False  # even if hostd died each time that it was tried

    @property
    def name(self) -> str:
        """The operation's name on the wire."""
        return self.request.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceOperation(Operation[R]):
    """An operation on an instance."""

    audited_as: str  # in the tenant's audit log, once it was carried out
    choose: Callable[[R, InstanceFacts], Action]
    needs_record: bool = True  # refused for an instance that is unknown or destroyed
    tolerates_unreadable: bool = False  # what cannot be read counts as absent
    may_build_network: bool = False  # needs the tenant to itself where its network is missing
    needs_platform: bool = False  # compares a sleep image with this host
    reconciles_first: bool = True  # if hostd has not looked at the instance since it started
    needs_memory: bool = False  # fails if reconciling finds the guest's memory lost


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOperation(Operation[R]):
    """An operation on a tenant's network."""

    plan: Callable[[R, NetworkFacts, Settings], Plan]
    reserves: bool  # takes the net id and the subnet for the tenant


_INSTANCE: Final[tuple[InstanceOperation[Any], ...]] = (
    InstanceOperation(
        request=StartInstance,
        audited_as="InstanceStarted",
        choose=start.choose,
        new_work=True,
        may_build_network=True,
    ),
    InstanceOperation(
        request=StopInstance,
        audited_as="InstanceStopped",
        choose=stop.choose,
        supersedes=(StartInstance, SleepInstance, WakeInstance),
        tolerates_unreadable=True,
    ),
    InstanceOperation(
        request=SleepInstance,
        audited_as="InstanceSlept",
        choose=sleep.choose,
        retried_at_start=True,
        reconciles_first=False,  # Sleep has an error of its own for lost memory
    ),
    InstanceOperation(
        request=WakeInstance,
        audited_as="InstanceWoken",
        choose=wake.choose,
        new_work=True,
        may_build_network=True,
        needs_platform=True,
        needs_memory=True,
    ),
    InstanceOperation(
        request=DestroyInstance,
        audited_as="InstanceDestroyed",
        choose=destroy.choose,
        supersedes=(StartInstance, StopInstance, SleepInstance, WakeInstance),
        needs_record=False,
        tolerates_unreadable=True,
        runs_despite_crashes=True,
    ),
)
_NETWORK: Final[tuple[NetworkOperation[Any], ...]] = (
    NetworkOperation(request=SetupNetwork, plan=network.setup, reserves=True, new_work=True),
    NetworkOperation(request=TeardownNetwork, plan=network.teardown, reserves=False),
)
INSTANCE: Final[Mapping[type[Request], InstanceOperation[Any]]] = {
    row.request: row for row in _INSTANCE
}
NETWORK: Final[Mapping[type[Request], NetworkOperation[Any]]] = {
    row.request: row for row in _NETWORK
}
OPERATIONS: Final[Mapping[type[Request], Operation[Any]]] = {
    **INSTANCE, **NETWORK, Ping: Operation(request=Ping),
}  # fmt: skip


def operation_of(request: Request) -> Operation[Any]:
    """The row of the request's operation."""
    return OPERATIONS[type(request)]


def instance_operation(request: InstanceRequest) -> InstanceOperation[Any]:
    """The same, of an operation on an instance."""
    return INSTANCE[type(request)]


def network_operation(request: NetworkRequest) -> NetworkOperation[Any]:
    """The same, of an operation on a network."""
    return NETWORK[type(request)]


def facts_for(request: InstanceRequest, host: Host, *, layout: Layout, at: str) -> InstanceFacts:
    """The facts that the request is decided from.

    Raises:
        Conflict, Lost, Transient, Broken: as `worker.plans.facts.instance_facts`.
    """
    operation = instance_operation(request)
    return instance_facts(
        InstanceRef.of(request),
        host,
        layout=layout,
        at=at,
        tolerant=operation.tolerates_unreadable,
        with_platform=operation.needs_platform,
    )


def action_for(request: InstanceRequest, facts: InstanceFacts) -> Action:
    """What hostd does for `request`: the table "operation by status" of docs/protocol.md.

    Raises:
        Conflict: the instance's state forbids it.
    """
    operation = instance_operation(request)
    if operation.needs_record and facts.instance is None:
        raise Conflict(
            "unknown_instance",
            f"{facts.ref} is not on record here",
            hint="write its instance.json first, with status created",
        )
    if operation.needs_record and facts.status == "destroyed":
        raise Conflict("destroyed", f"{facts.ref} is destroyed", hint="make a new instance")
    return operation.choose(request, facts)


def instance_plan(request: InstanceRequest, action: Action, inputs: PlanInputs) -> Plan:
    """The steps that make `request` true on this host, in order; it is audited before the last.

    The last one records the status: until it is done, the request is not.

    Raises:
        Conflict: something that the plan is built from is missing.
    """
    plan, facts = action.plan(inputs), inputs.facts
    if not plan.steps or facts.tenant is None or plan.fails_with is not None:
        return plan
    word = instance_operation(request).audited_as
    audited = Audited(facts.ref, word, inputs.request_id, facts.at, describe(request))
    return replace(plan, steps=(*plan.steps[:-1], audited, plan.steps[-1]))
