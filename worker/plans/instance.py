"""Plans over an instance's whole life.  Stopping mirrors starting: made last, gone first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.documents import PoolDoc
from worker.errors import Conflict, Lost
from worker.facts import InstanceFacts
from worker.plans.base import Plan
from worker.plans.build import (
    MIB,
    SECRETS_DISK_MIB,
    Place,
    config_disk,
    data_disk,
    limits,
    secrets_disk,
    vm_spec,
)
from worker.plans.network import network_steps
from worker.ports import Image, VmmState, VmSpec
from worker.settings import Settings
from worker.specs import spec_from_builtins, spec_to_builtins
from worker.steps.base import Step
from worker.steps.confine import (
    CgroupAbsent,
    CgroupPresent,
    JailAbsent,
    JailFresh,
    TapAbsent,
    TapPresent,
)
from worker.steps.disks import (
    DataDiskPresent,
    DiskCurrent,
    PathAbsent,
    SecretsAbsent,
    SecretsRestored,
    VolumesWiped,
)
from worker.steps.guest import (
    GuestBooted,
    GuestLoaded,
    GuestPaused,
    GuestRunning,
    VmmGone,
    VmmSpawned,
)
from worker.steps.image import ImageAbsent, ImageConsumed, ImagePublished, ImageSealed, RoomForImage
from worker.steps.record import StatusRecorded

VMSTATE_ROOM_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Grounds:
    """What every plan of an instance rests on.  `place` is None before its first start."""

    facts: InstanceFacts
    place: Place | None
    settings: Settings

    @property
    def pool(self) -> PoolDoc:
        """The pool's document; reserving has proven it is there."""
        if self.facts.pool is None:
            raise Conflict("unknown_pool", f"pool {self.facts.ref.pool_id} has no pool.json")
        return self.facts.pool


def start(grounds: Grounds, place: Place) -> Plan:
    """A stopped instance boots."""
    facts, settings = grounds.facts, grounds.settings
    spec = _standing_spec(facts) or vm_spec(facts, grounds.pool, place, settings)
    disks: list[Step] = []
    if any(drive.id == "data" for drive in spec.drives):
        disks.append(DataDiskPresent(data_disk(facts.ref, grounds.pool, settings)))
    if facts.vmm not in (VmmState.RUNNING, VmmState.PAUSED):
        disks += [
            DiskCurrent(config_disk(facts.ref, grounds.pool, place, settings), "config_disk"),
            DiskCurrent(secrets_disk(facts, settings), "secrets_disk"),
        ]
    return Plan(
        (
            *_no_idle_vmm(grounds),
            *_confined(grounds, place, spec),
            *disks,
            JailFresh(spec),
            VmmSpawned(spec, settings.kill_timeout_s),
            GuestBooted(spec),
            _recorded_running(grounds, place, revision_hash=spec.kernel.parent.name),
        ),
        "running",
    )


def resume(grounds: Grounds, place: Place) -> Plan:
    """A warm instance runs."""
    return Plan((GuestRunning(grounds.facts.ref), _recorded_running(grounds, place)), "running")


def stop(grounds: Grounds) -> Plan:
    """Nothing of the guest runs; its data volume stays."""
    pool = grounds.facts.pool
    grace_s = float(pool.runtime_policy.graceful_shutdown_seconds) if pool else 0.0
    recorded = StatusRecorded(
        grounds.facts.ref, "stopped", stamps={"last_stopped_at": grounds.facts.at}
    )
    ref = grounds.facts.ref
    return Plan((*_gone(grounds, grace_s=grace_s), ImageAbsent(ref), recorded), "stopped")


def lost(grounds: Grounds) -> Plan:
    """The guest's memory is gone: what is left is settled, and the request says so."""
    error = Lost(
        "memory_lost",
        f"the memory of {grounds.facts.ref} is gone: no VMM lives and no usable image exists",
        hint="its disks are kept; start it to boot it afresh",
    )
    return Plan(stop(grounds).steps, "stopped", then=error)


def sleep(grounds: Grounds, request_id: str, *, force: bool) -> Plan:
    """The guest's memory goes to a durable image, then the guest goes."""
    facts = grounds.facts
    spec = _standing_spec(facts)
    if spec is None:
        raise Conflict("no_spec", f"{facts.ref} runs, but its jail has no record of its spec")
    first: list[Step] = [ImageAbsent(facts.ref)]
    if facts.vmm is VmmState.PAUSED and not force:
        first.append(GuestRunning(facts.ref))
    with_secrets = any(drive.id == "secrets" for drive in spec.drives)
    size_bytes = (spec.mem_mib + with_secrets * SECRETS_DISK_MIB) * MIB + VMSTATE_ROOM_BYTES
    return Plan(
        (
            *first,
            RoomForImage(facts.ref, size_bytes),
            GuestPaused(facts.ref),
            ImageSealed(spec, request_id, _manifest(spec, grounds, request_id), with_secrets),
            ImagePublished(facts.ref, request_id),
            *finish_sleep(grounds).steps,
        ),
        "sleeping",
    )


def finish_sleep(grounds: Grounds) -> Plan:
    """The image is published: the guest goes."""
    recorded = StatusRecorded(
        grounds.facts.ref, "sleeping", stamps={"last_stopped_at": grounds.facts.at}
    )
    return Plan((*_gone(grounds, final=True), recorded), "sleeping")


def wake(grounds: Grounds, place: Place, image: Image) -> Plan:
    """The guest runs on from its image, which is used up before a vCPU runs."""
    facts = grounds.facts
    spec = spec_from_builtins(image.manifest["spec"])
    killed: list[Step] = []
    if facts.vmm is not VmmState.GONE:  # loaded by a killed attempt; its vCPUs never ran
        killed.append(VmmGone(facts.ref, grounds.settings.kill_timeout_s, name="old_vmm_gone"))
    secrets = [SecretsRestored(facts.ref, image.secrets)] if image.secrets else []
    return Plan(
        (
            *killed,
            *_confined(grounds, place, spec),
            *secrets,
            JailFresh(spec, image.files),
            VmmSpawned(spec, grounds.settings.kill_timeout_s),
            GuestLoaded(spec),
            ImageConsumed(facts.ref),
            *finish_wake(grounds, place).steps,
        ),
        "running",
    )


def finish_wake(grounds: Grounds, place: Place) -> Plan:
    """The image is used up, or stale: the guest runs and the image goes."""
    return Plan(
        (
            GuestRunning(grounds.facts.ref),
            ImageAbsent(grounds.facts.ref),
            _recorded_running(grounds, place),
        ),
        "running",
    )


def destroy(grounds: Grounds, *, wipe_volumes: bool) -> Plan:
    """Nothing of the instance is left but its tombstone, and its volumes unless wiped."""
    facts, layout = grounds.facts, grounds.settings.layout
    wiped = [VolumesWiped(layout.volumes(facts.ref))] if wipe_volumes else []
    recorded = [StatusRecorded(facts.ref, "destroyed")] if facts.instance else []
    return Plan(
        (
            *_gone(grounds),
            ImageAbsent(facts.ref),
            *wiped,
            PathAbsent(layout.runtime(facts.ref), "runtime_absent"),
            *recorded,
        ),
        "destroyed",
    )


def _confined(grounds: Grounds, place: Place, spec: VmSpec) -> tuple[Step, ...]:
    """Network, TAP and control group stand."""
    ref, settings = grounds.facts.ref, grounds.settings
    return (
        *network_steps(ref.tenant_id, place.net, settings),
        TapPresent(ref, spec.tap, place.net.bridge_name, spec.uid),
        CgroupPresent(ref, limits(spec, overhead_mib=settings.overhead_mib)),
    )


def _gone(grounds: Grounds, *, grace_s: float = 0.0, final: bool = False) -> tuple[Step, ...]:
    """The mirror of `start`, disks apart."""
    ref, timeout_s = grounds.facts.ref, grounds.settings.kill_timeout_s
    net = grounds.facts.instance.fields.net if grounds.facts.instance else None
    taps = {net.tap_dev} if net else set()
    if grounds.place:
        taps.add(grounds.place.tap)
    return (
        VmmGone(ref, timeout_s, grace_s=grace_s, final=final),
        JailAbsent(ref),
        *(TapAbsent(tap) for tap in sorted(taps)),
        CgroupAbsent(ref, timeout_s),
        SecretsAbsent(ref),
    )


def _no_idle_vmm(grounds: Grounds) -> tuple[Step, ...]:
    """A VMM that a killed attempt spawned but never booted cannot be configured twice."""
    if grounds.facts.vmm is not VmmState.IDLE:
        return ()
    timeout_s = grounds.settings.kill_timeout_s
    return (VmmGone(grounds.facts.ref, timeout_s, name="old_vmm_gone"),)


def _standing_spec(facts: InstanceFacts) -> VmSpec | None:
    """What the living guest was built from: the pool may have changed since."""
    return facts.spec if facts.vmm in (VmmState.RUNNING, VmmState.PAUSED) else None


def _recorded_running(grounds: Grounds, place: Place, **more: Any) -> StatusRecorded:
    values = {"net": place.record(), **more}
    stamps = {"last_started_at": grounds.facts.at, "entered_running_at": grounds.facts.at}
    return StatusRecorded(grounds.facts.ref, "running", values, stamps)


def _manifest(spec: VmSpec, grounds: Grounds, request_id: str) -> dict[str, Any]:
    doc = grounds.facts.instance
    return {
        "spec": spec_to_builtins(spec),
        "request_id": request_id,
        "made_at": grounds.facts.at,
        "revision_hash": doc.fields.revision_hash if doc else None,
        "kind": "Full",
    }
