"""Destroy: nothing of the instance is left."""

from __future__ import annotations

from typing import Final

from enqueue.requests import DestroyInstance
from worker.plans.action import UNCHANGED, Action
from worker.plans.facts import InstanceFacts
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, teardown_steps
from worker.ports import VmmState
from worker.steps.disks import PathAbsent, VolumesWiped
from worker.steps.image import ImageAbsent
from worker.steps.record import StatusRecorded


def choose(request: DestroyInstance, facts: InstanceFacts) -> Action:
    """What a Destroy does, also for an instance that is unknown or destroyed."""
    on_record = facts.status not in (None, "destroyed")
    remains = facts.vmm is not VmmState.GONE or facts.image is not None
    unwiped = request.wipe_volumes and facts.volumes_exist and facts.status is not None
    return DESTROY if on_record or remains or unwiped else UNCHANGED


def destroy(inputs: PlanInputs) -> Plan:
    """Only the instance's tombstone is left, and its volumes unless they are to be wiped."""
    facts, layout, request = inputs.facts, inputs.settings.layout, inputs.request
    wipe = isinstance(request, DestroyInstance) and request.wipe_volumes
    wiped = [VolumesWiped(layout.volumes(facts.ref))] if wipe else []
    recorded = [StatusRecorded(facts.ref, "destroyed")] if facts.instance else []
    return Plan(
        (
            *teardown_steps(inputs),
            ImageAbsent(facts.ref),
            *wiped,
            PathAbsent(layout.runtime(facts.ref), "runtime_absent"),
            *recorded,
        ),
        "destroyed",
    )


DESTROY: Final = Action("destroy", destroy)
