"""Plans of sleep and wake: the guest's memory goes to a durable image and comes back once."""

from __future__ import annotations

from typing import Any

from enqueue.documents import Compression
from worker.errors import Conflict
from worker.model.names import InstanceRef
from worker.plans.guest_spec import MIB, SECRETS_DISK_MIB, Place, crypt_disk
from worker.plans.image_manifest import incompatibilities, spec_from_builtins, spec_to_builtins
from worker.plans.plan import Plan
from worker.plans.shared import (
    PlanInputs,
    notify_steps,
    recorded_running,
    standing_spec,
    teardown_steps,
    vmm_up_steps,
)
from worker.ports import Image, VmmState, VmSpec
from worker.steps.disks import DiskOpen, SecretsRestored
from worker.steps.image import (
    ImageAbsent,
    ImageConsumed,
    ImagePublished,
    ImageSealed,
    MemoryUnpacked,
    RoomForImage,
)
from worker.steps.record import StatusRecorded
from worker.steps.step import Step
from worker.steps.vm import GuestLoaded, GuestPaused, GuestRunning, VmmGone

BESIDE_ROOM_BYTES = 1 * MIB  # manifest, directories, what a codec adds to what it cannot shrink


def sleep(inputs: PlanInputs, request_id: str, *, drain_s: float | None) -> Plan:
    """The guest's memory goes to a durable image, then the guest goes.

    `drain_s` is how long the guest may take to drain before it is paused; None: it is not asked.
    """
    facts = inputs.facts
    spec = standing_spec(facts)
    if spec is None:
        raise Conflict("no_spec", f"{facts.ref} runs, but its jail has no record of its spec")
    compression = _compression(inputs)
    first: list[Step] = [ImageAbsent(facts.ref)]
    if facts.vmm is VmmState.PAUSED and drain_s:  # only a guest that runs can drain
        first.append(GuestRunning(facts.ref))
    with_secrets = any(drive.id == "secrets" for drive in spec.drives)
    packed_mib = 0 if compression == "none" else spec.mem_mib
    beside_bytes = (packed_mib + with_secrets * SECRETS_DISK_MIB) * MIB + BESIDE_ROOM_BYTES
    manifest = _manifest(spec, inputs, request_id, compression)
    return Plan(
        (
            *first,
            RoomForImage(spec, request_id, beside_bytes),
            GuestPaused(facts.ref, drain_s),
            ImageSealed(spec, request_id, manifest, with_secrets, compression),
            ImagePublished(facts.ref, request_id),
            *finish_sleep(inputs).steps,
        ),
        "sleeping",
    )


def finish_sleep(inputs: PlanInputs) -> Plan:
    """The image is published: the guest goes."""
    recorded = StatusRecorded(
        inputs.facts.ref, "sleeping", stamps={"last_stopped_at": inputs.facts.at}
    )
    return Plan((*teardown_steps(inputs, final=True), recorded), "sleeping")


def wake(inputs: PlanInputs, place: Place, image: Image) -> Plan:
    """The guest runs on from its image, which is used up before a vCPU runs.

    Raises:
        Conflict: `image_incompatible`, this machine cannot load it; `image_foreign`.
    """
    facts = inputs.facts
    _check_compatible(inputs, image)
    spec = spec_from_builtins(image.manifest["spec"])
    _check_own(spec, facts.ref, place)
    killed: list[Step] = []
    if facts.vmm is not VmmState.GONE:  # loaded by a killed attempt; its vCPUs never ran
        killed.append(VmmGone(facts.ref, inputs.settings.kill_timeout_s, name="old_vmm_gone"))
    crypt = crypt_disk(spec, inputs.settings)
    disks: list[Step] = [SecretsRestored(facts.ref, image.secrets)] if image.secrets else []
    disks += [DiskOpen(crypt)] if crypt else []
    return Plan(
        (
            MemoryUnpacked(facts.ref),
            *killed,
            *vmm_up_steps(inputs, place, spec, tuple(disks), image.files),
            GuestLoaded(spec),
            ImageConsumed(facts.ref),
            *finish_wake(inputs, place, just_marked=True).steps,
        ),
        "running",
    )


def finish_wake(inputs: PlanInputs, place: Place, *, just_marked: bool = False) -> Plan:
    """The image is used up, or stale: the guest runs and the image goes."""
    return Plan(
        (
            GuestRunning(inputs.facts.ref, just_marked=just_marked),
            *notify_steps(inputs),
            ImageAbsent(inputs.facts.ref),
            recorded_running(inputs, place),
        ),
        "running",
    )


def _compression(inputs: PlanInputs) -> Compression:
    """How the pool wants its images.

    Raises:
        Conflict: `diff_unsupported`.
    """
    pool = inputs.facts.pool
    if pool is None:
        return "none"
    if pool.snapshot_type != "Full":
        raise Conflict(
            "diff_unsupported",
            f"pool.json of {pool.tenant_id}/{pool.pool_id} has snapshot_type "
            f'"{pool.snapshot_type}", and hostd makes Full snapshots only; the guest runs on',
            hint='set snapshot_type to "Full" in pool.json, or leave it out',
        )
    return pool.snapshot_compression


def _check_own(spec: VmSpec, ref: InstanceRef, place: Place) -> None:
    """In it are another guest's memory, address and disks if it is another's."""
    if (spec.ref, spec.tap, spec.mac) != (ref, place.tap, place.mac):
        raise Conflict(
            "image_foreign",
            f"the sleep image in the directory of {ref} is that of {spec.ref} "
            f"with {spec.tap} and {spec.mac}, not {place.tap} and {place.mac}",
            hint="put each instance's image back into its own directory; the image is untouched",
        )


def _check_compatible(inputs: PlanInputs, image: Image) -> None:
    platform = inputs.facts.platform
    if platform is None:
        return
    found = incompatibilities(
        image.manifest, platform, across_kernels=inputs.settings.wake_across_kernels
    )
    if found:
        made_by = image.manifest.get("firecracker_version", "unknown")
        raise Conflict(
            "image_incompatible",
            f"the sleep image of {inputs.facts.ref} cannot be loaded here: {'; '.join(found)}",
            hint=f"wake it on what it slept on (Firecracker {made_by}, same processor and kernel), "
            "or stop it to give its memory up; the image is untouched",
        )


def _manifest(
    spec: VmSpec, inputs: PlanInputs, request_id: str, compression: Compression
) -> dict[str, Any]:
    doc = inputs.facts.instance
    return {
        "spec": spec_to_builtins(spec),
        "request_id": request_id,
        "made_at": inputs.facts.at,
        "revision_hash": doc.fields.revision_hash if doc else None,
        "kind": "Full",
        "compression": compression,
    }
