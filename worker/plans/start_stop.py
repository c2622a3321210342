"""Plans over an instance's whole life.  Stopping mirrors starting: made last, gone first."""

from __future__ import annotations

from worker.errors import Lost
from worker.model.names import InstanceRef
from worker.plans.guest_spec import (
    DATA,
    Place,
    config_disk,
    crypt_disk,
    data_disk,
    secrets_disk,
    vm_spec,
)
from worker.plans.plan import Plan
from worker.plans.shared import (
    PlanInputs,
    notify_steps,
    recorded_running,
    standing_spec,
    teardown_steps,
    vmm_up_steps,
)
from worker.ports import VmmState, VmSpec
from worker.steps.agent import GuestReady
from worker.steps.disks import (
    DataDiskBegun,
    DataDiskPresent,
    DiskCurrent,
    DiskOpen,
    PathAbsent,
    VolumesWiped,
)
from worker.steps.image import ImageAbsent
from worker.steps.record import StatusRecorded
from worker.steps.step import Step
from worker.steps.vm import GuestBooted, GuestRunning, VmmGone


def start(inputs: PlanInputs, place: Place) -> Plan:
    """A stopped instance boots."""
    facts, settings = inputs.facts, inputs.settings
    spec = standing_spec(facts) or vm_spec(facts, inputs.pool, place, settings)
    return Plan(
        (
            *_no_idle_vmm(inputs),
            *_started(inputs, place, spec),
            GuestBooted(spec),
            *_ready(inputs),
            recorded_running(inputs, place, revision_hash=spec.kernel.parent.name),
        ),
        "running",
    )


def resume(inputs: PlanInputs, place: Place) -> Plan:
    """A warm instance runs."""
    ref = inputs.facts.ref
    return Plan(
        (GuestRunning(ref), *notify_steps(inputs), recorded_running(inputs, place)), "running"
    )


def stop(inputs: PlanInputs) -> Plan:
    """Nothing of the guest runs; its data volume stays."""
    pool = inputs.facts.pool
    grace_s = inputs.bounded(pool.runtime_policy.graceful_shutdown_seconds) if pool else 0.0
    recorded = StatusRecorded(
        inputs.facts.ref, "stopped", stamps={"last_stopped_at": inputs.facts.at}
    )
    ref = inputs.facts.ref
    return Plan((*teardown_steps(inputs, grace_s=grace_s), ImageAbsent(ref), recorded), "stopped")


def memory_lost(ref: InstanceRef) -> Lost:
    """The error for a guest that cannot be had back."""
    return Lost(
        "memory_lost",
        f"the memory of {ref} is gone: no VMM lives and no usable image exists",
        hint="its disks are kept; start it to boot it afresh",
    )


def lost(inputs: PlanInputs) -> Plan:
    """The guest's memory is gone: what is left is settled, and the request says so."""
    return Plan(stop(inputs).steps, "stopped", fails_with=memory_lost(inputs.facts.ref))


def destroy(inputs: PlanInputs, *, wipe_volumes: bool) -> Plan:
    """Nothing of the instance is left but its tombstone, and its volumes unless wiped."""
    facts, layout = inputs.facts, inputs.settings.layout
    wiped = [VolumesWiped(layout.volumes(facts.ref))] if wipe_volumes else []
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


def _started(inputs: PlanInputs, place: Place, spec: VmSpec) -> tuple[Step, ...]:
    """A VMM is up, with the guest's disks.

    The disks that hostd fills are as they were for a guest that has booted.  A new data disk is
    formatted while the rest is done, the jail built and the VMM launched; an encrypted one must be
    open before a jail can have it.
    """
    facts, settings = inputs.facts, inputs.settings
    disks: list[Step] = []
    if facts.vmm not in (VmmState.RUNNING, VmmState.PAUSED):
        disks = [
            DiskCurrent(config_disk(facts.ref, inputs.pool, place, settings), "config_disk"),
            DiskCurrent(secrets_disk(facts, settings), "secrets_disk"),
        ]
    if all(drive.id != DATA for drive in spec.drives):
        return vmm_up_steps(inputs, place, spec, tuple(disks))
    data = data_disk(facts.ref, inputs.pool, settings)
    if crypt := crypt_disk(spec, settings):
        disks += [DataDiskPresent(data, crypt), DiskOpen(crypt)]
        return vmm_up_steps(inputs, place, spec, tuple(disks))
    unfinished = (DataDiskPresent(data),)
    return (
        DataDiskBegun(data),
        *vmm_up_steps(inputs, place, spec, tuple(disks), unfinished=unfinished),
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
