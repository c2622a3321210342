"""`hostd plan`: the steps that a request would come to now, and which of them hold already."""

from __future__ import annotations

import time
from typing import Any

from enqueue.documents import written_time
from enqueue.requests import InstanceRequest, NetworkRequest, SetupNetwork, TeardownNetwork
from worker.commands.host_view import HostView
from worker.plans.action import action_for
from worker.plans.choose import instance_plan
from worker.plans.facts import instance_facts, network_facts
from worker.plans.network import setup, teardown
from worker.plans.plan import Plan
from worker.request.reserve import reserve_instance, reserve_network


def preview(desk: HostView, request: InstanceRequest | NetworkRequest) -> list[dict[str, Any]]:
    """`{"step", "holds"}` for each step, in order; nothing is changed or reserved.

    Raises:
        HostdError: the request would be refused; the same error that it would end with.
    """
    if isinstance(request, SetupNetwork | TeardownNetwork):
        plan = _network(desk, request)
    else:
        plan = _instance(desk, request)
    steps = [{"step": step.name, "holds": step.done(desk.host)} for step in plan.steps]
    if plan.fails_with is not None:
        steps.append({"step": f"then fails with {plan.fails_with.code}", "holds": False})
    return steps


def _network(desk: HostView, request: NetworkRequest) -> Plan:
    facts = network_facts(request, desk.host)
    with desk.ledger.rehearsal():
        reserve_network(request, facts, desk.ledger, desk.settings)
    if isinstance(request, SetupNetwork):
        return setup(request, desk.settings)
    return teardown(request, facts)


def _instance(desk: HostView, request: InstanceRequest) -> Plan:
    at = written_time(time.time())
    facts = instance_facts(request, desk.host, layout=desk.settings.layout, at=at)
    action = action_for(request, facts)
    with desk.ledger.rehearsal():
        place = reserve_instance(action, facts, desk.ledger, desk.settings)
    return instance_plan(
        request, action, facts, place, settings=desk.settings, request_id="preview"
    )
