"""`hostd plan`: the steps of the plan for a request, and which of them are done already."""

from __future__ import annotations

import time
from typing import Any

from enqueue.requests import InstanceRequest, NetworkRequest
from enqueue.times import format_iso
from worker.commands.host_view import HostView
from worker.plans.facts import network_facts
from worker.plans.operations import action_for, facts_for, instance_plan, network_operation
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs
from worker.request.reserve import reserve_instance, reserve_network


def preview(view: HostView, request: InstanceRequest | NetworkRequest) -> list[dict[str, Any]]:
    """`{"step", "holds"}` for each step, in order; nothing is changed or reserved.

    Raises:
        HostdError: the request would be refused; the same error that it would end with.
    """
    if isinstance(request, NetworkRequest):
        plan = _network(view, request)
    else:
        plan = _instance(view, request)
    steps = [{"step": step.name, "holds": step.done(view.host)} for step in plan.steps]
    if plan.fails_with is not None:
        steps.append({"step": f"then fails with {plan.fails_with.code}", "holds": False})
    return steps


def _network(view: HostView, request: NetworkRequest) -> Plan:
    facts = network_facts(request, view.host)
    with view.ledger.database.dry_run():
        reserve_network(request, facts, view.ledger, view.settings)
    return network_operation(request).plan(request, facts, view.settings)


def _instance(view: HostView, request: InstanceRequest) -> Plan:
    at = format_iso(time.time() * 1000)
    facts = facts_for(request, view.host, layout=view.settings.layout, at=at)
    action = action_for(request, facts)
    with view.ledger.database.dry_run():
        place = reserve_instance(action, facts, view.ledger, view.settings)
    inputs = PlanInputs(facts, place, view.settings, request, "preview")
    return instance_plan(request, action, inputs)
