"""Start: a stopped instance boots, a warm one runs on."""

from __future__ import annotations

from typing import Final

from enqueue.documents import is_up
from enqueue.requests import StartInstance
from worker.errors import Conflict
from worker.plans.action import UNCHANGED, Action
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import DATA, config_disk, crypt_disk, data_disk, secrets_disk, vm_spec
from worker.plans.plan import Plan
from worker.plans.shared import (
    PlanInputs,
    living_spec,
    notify_steps,
    recorded_running,
    vmm_up_steps,
)
from worker.ports import VmmState, VmSpec
from worker.steps.agent import GuestReady
from worker.steps.disks import DataDiskBegun, DataDiskPresent, DiskCurrent, DiskOpen
from worker.steps.step import Step
from worker.steps.vm import GuestBooted, GuestRunning, VmmGone


def choose(request: StartInstance, facts: InstanceFacts) -> Action:
    """What a Start does.

    Raises:
        Conflict: `instance_sleeping`.
    """
    on_record = is_up(facts.status)
    if facts.status == "sleeping" or (on_record and not facts.alive and facts.published):
        raise Conflict(
            "instance_sleeping",
            f"{facts.ref} sleeps; its image is untouched",
            hint="wake it, or stop it first to discard its memory",
        )
    return choose_for_living(facts) if on_record and facts.alive else BOOT


def choose_for_living(facts: InstanceFacts) -> Action:
    """What a Start or Wake does with an instance that is running or warm on record, if its VMM
    lives.

    Raises:
        Conflict: `instance_sleeping`.
    """
    if facts.vmm is VmmState.PAUSED and facts.published:
        raise Conflict(
            "instance_sleeping",
            f"{facts.ref} is about to sleep: its image is published",
            hint="wake it once its SleepInstance is done",
        )
    return UNCHANGED if facts.vmm is VmmState.RUNNING and facts.status == "running" else RESUME


def boot(inputs: PlanInputs) -> Plan:
    """A stopped instance boots."""
    facts, settings = inputs.facts, inputs.settings
    spec = living_spec(facts) or vm_spec(facts, inputs.pool, inputs.reserved, settings)
    return Plan(
        (
            *_no_idle_vmm(inputs),
            *_vmm_up(inputs, spec),
            GuestBooted(spec),
            *_ready(inputs),
            recorded_running(inputs, revision_hash=spec.kernel.parent.name),
        ),
        "running",
    )


def resume(inputs: PlanInputs) -> Plan:
    """A warm instance runs."""
    ref = inputs.facts.ref
    return Plan((GuestRunning(ref), *notify_steps(inputs), recorded_running(inputs)), "running")


BOOT: Final = Action("boot", boot, needs_place=True, needs_quota=True)
RESUME: Final = Action("resume", resume, needs_place=True)


def _vmm_up(inputs: PlanInputs, spec: VmSpec) -> tuple[Step, ...]:
    """A VMM is up, with the guest's disks.

    The disks that hostd fills are left as they are for a guest that has booted.  A new data disk is
    formatted while the jail is built and the VMM launched; an encrypted one must be open before a
    jail can have it.
    """
    facts, settings = inputs.facts, inputs.settings
    disks: list[Step] = []
    if not facts.alive:
        config = config_disk(facts.ref, inputs.pool, inputs.reserved, settings)
        disks = [
            DiskCurrent(config, "config_disk"),
            DiskCurrent(secrets_disk(facts, settings), "secrets_disk"),
        ]
    if all(drive.id != DATA for drive in spec.drives):
        return vmm_up_steps(inputs, spec, tuple(disks))
    data = data_disk(facts.ref, inputs.pool, settings)
    if crypt := crypt_disk(spec, settings):
        disks += [DataDiskPresent(data, crypt), DiskOpen(crypt)]
        return vmm_up_steps(inputs, spec, tuple(disks))
    unfinished = (DataDiskPresent(data),)
    return (
        DataDiskBegun(data),
        *vmm_up_steps(inputs, spec, tuple(disks), unfinished=unfinished),
    )


def _ready(inputs: PlanInputs) -> tuple[Step, ...]:
    """Where the pool asks for it, an instance runs only once its guest's agent answers."""
    timeout_s = inputs.bounded(inputs.pool.runtime_policy.readiness_timeout_seconds)
    return (GuestReady(inputs.facts.ref, timeout_s),) if timeout_s else ()


def _no_idle_vmm(inputs: PlanInputs) -> tuple[Step, ...]:
    """A VMM that a killed attempt spawned but never booted cannot be configured twice."""
    if inputs.facts.vmm is not VmmState.IDLE:
        return ()
    timeout_s = inputs.settings.kill_timeout_s
    return (VmmGone(inputs.facts.ref, timeout_s, name="old_vmm_gone"),)
