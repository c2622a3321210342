"""What an instance comes to that no request has in hand: after a restart, a reboot, an exit.

Pure: the table "record, VMM, image" of docs/recovery.md.  Nothing that a guest may still need is
thrown away: what hostd cannot read is left to a person.
"""

from __future__ import annotations

from enum import Enum
from typing import assert_never

from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import Place
from worker.plans.network import firewall_step
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, standing_spec
from worker.plans.sleep import finish_sleep, finish_wake
from worker.plans.start_stop import stop
from worker.ports import GuestRules, ImageState, VmmState
from worker.steps.confinement import SpoofingBarred
from worker.steps.image import ImageAbsent
from worker.steps.step import Step


class Finding(Enum):
    """What becomes of the instance."""

    NOTHING = "nothing"  # record and machine agree
    ADOPTED = "adopted"  # its VMM lives, and goes on
    STOPPED = "stopped"  # nothing of its guest is left, or may be
    ASLEEP = "asleep"  # its image is published: the guest is not, or not to be, there
    AWAKE = "awake"  # its guest lives: it runs on, and an image beside it is withdrawn
    LOST = "lost"  # it slept, and its memory is gone: stopped
    LEFT = "left"  # its VMM or its image cannot be read: nothing is touched


def finding_for(facts: InstanceFacts) -> Finding:
    """What becomes of the instance that these facts are about."""
    image = facts.image.state if facts.image else ImageState.NONE
    match facts.status:
        case None | "destroyed":
            return Finding.NOTHING  # whatever is left of it is the sweep's
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


def reconcile_plan(settled: Finding, inputs: PlanInputs, place: Place | None) -> Plan:
    """The steps of a settlement.  A guest is asked nothing here."""
    match settled:
        case Finding.NOTHING | Finding.LEFT:
            return Plan((), inputs.facts.status or "")
        case Finding.ADOPTED:  # a killed sleep may have left a part of an image
            steps = (*_barred(inputs), ImageAbsent(inputs.facts.ref))
            return Plan(steps, inputs.facts.status or "")
        case Finding.STOPPED | Finding.LOST:
            return stop(inputs)
        case Finding.ASLEEP:
            return finish_sleep(inputs)
        case Finding.AWAKE:
            assert place is not None  # noqa: S101  reserving it has come before
            plan = finish_wake(inputs, place)
            return Plan((*_barred(inputs), *plan.steps), plan.state)
        case _:
            assert_never(settled)


def _barred(inputs: PlanInputs) -> tuple[Step, ...]:
    """The packet rules of a guest that lives: another program may have flushed them."""
    spec, place = standing_spec(inputs.facts), inputs.place
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
