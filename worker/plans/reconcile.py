"""How an instance is reconciled that no request works on: after a restart, a reboot, a VMM's exit.

Pure: the table "record, VMM, image" of docs/recovery.md.  Nothing that a guest may still need is
removed: what hostd cannot read is left to a person.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from worker.plans.action import unchanged
from worker.plans.facts import InstanceFacts
from worker.plans.network import firewall_step
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, living_spec
from worker.plans.sleep import finish_sleep
from worker.plans.stop import stop
from worker.plans.wake import finish_wake
from worker.ports import GuestRules, ImageState, VmmState
from worker.steps.confinement import SpoofingBarred
from worker.steps.image import ImageAbsent
from worker.steps.step import Step


class Finding(Enum):
    """What hostd found an instance to be, and so makes of it."""

    NOTHING = "nothing"  # record and host agree
    ADOPTED = "adopted"  # its VMM lives and keeps running
    STOPPED = "stopped"  # its guest is gone; what is left of it is removed
    ASLEEP = "asleep"  # its image is published; what is left of the guest is removed
    AWAKE = "awake"  # its guest lives: it keeps running, and an image beside it is removed
    LOST = "lost"  # it slept, and its memory is gone: stopped
    LEFT = "left"  # its VMM or its image cannot be read: nothing is touched


def finding_for(facts: InstanceFacts) -> Finding:
    """The finding for an instance with these facts."""
    image = facts.image.state if facts.image else ImageState.NONE
    match facts.status:
        case None | "destroyed":
            return Finding.NOTHING  # the sweep removes what is left of it
        case "created" | "ready" | "stopped":
            stray = facts.vmm is not VmmState.GONE or facts.image_parts
            return Finding.STOPPED if stray else Finding.NOTHING
        case "running" | "warm" | "sleeping":
            if facts.vmm is VmmState.HUNG or image is ImageState.DAMAGED:
                return Finding.LEFT
            if facts.status == "sleeping":
                return _sleeping(facts.vmm, image)
            return _running(facts.vmm, image, warm=facts.status == "warm")
        case _:
            assert_never(facts.status)


def reconcile_plan(finding: Finding, inputs: PlanInputs) -> Plan:
    """The steps that bring record and host to agree.  The guest is not asked here."""
    match finding:
        case Finding.NOTHING | Finding.LEFT:
            return unchanged(inputs)
        case Finding.ADOPTED:  # a killed sleep may have left a part of an image
            steps = (*_rules(inputs), ImageAbsent(inputs.facts.ref))
            return Plan(steps, inputs.facts.status or "")
        case Finding.STOPPED | Finding.LOST:
            return stop(inputs)
        case Finding.ASLEEP:
            return finish_sleep(inputs)
        case Finding.AWAKE:
            plan = finish_wake(inputs)
            return Plan((*_rules(inputs), *plan.steps), plan.state)
        case _:
            assert_never(finding)


def _rules(inputs: PlanInputs) -> tuple[Step, ...]:
    """The packet rules of a guest that lives: another program may have flushed them."""
    spec, place = living_spec(inputs.facts), inputs.place
    if spec is None or place is None:
        return ()
    rules = firewall_step(inputs.facts.ref.tenant_id, place.net, inputs.settings)
    return (rules, SpoofingBarred(GuestRules(spec.tap, spec.mac, place.ip)))


def _running(vmm: VmmState, image: ImageState, *, warm: bool) -> Finding:
    """The record says `running` or `warm`."""
    if image is ImageState.PUBLISHED:
        return Finding.AWAKE if vmm is VmmState.RUNNING else Finding.ASLEEP
    match vmm:
        case VmmState.RUNNING:
            return Finding.ADOPTED if image is ImageState.NONE else Finding.AWAKE
        case VmmState.PAUSED:
            kept = warm and image is ImageState.NONE
            return Finding.ADOPTED if kept else Finding.AWAKE
        case VmmState.IDLE | VmmState.GONE | VmmState.HUNG:
            return Finding.STOPPED if image is ImageState.NONE else Finding.LOST
        case _:
            assert_never(vmm)


def _sleeping(vmm: VmmState, image: ImageState) -> Finding:
    """The record says `sleeping`."""
    match vmm:
        case VmmState.RUNNING:
            return Finding.AWAKE
        case VmmState.PAUSED:
            return Finding.ASLEEP if image is ImageState.PUBLISHED else Finding.AWAKE
        case VmmState.IDLE:
            return Finding.ASLEEP if image is ImageState.PUBLISHED else Finding.LOST
        case VmmState.GONE | VmmState.HUNG:
            return Finding.NOTHING if image is ImageState.PUBLISHED else Finding.LOST
        case _:
            assert_never(vmm)
