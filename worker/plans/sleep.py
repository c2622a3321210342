"""Plans of sleep and wake: the guest's memory goes to a durable image and comes back once."""

from __future__ import annotations

from typing import Any

from worker.errors import Conflict
from worker.plans.base import Plan
from worker.plans.build import MIB, SECRETS_DISK_MIB, Place
from worker.plans.grounds import Grounds, confined, gone, recorded_running, standing_spec
from worker.ports import Image, VmmState, VmSpec
from worker.specs import spec_from_builtins, spec_to_builtins
from worker.steps.base import Step
from worker.steps.confine import JailFresh
from worker.steps.disks import SecretsRestored
from worker.steps.guest import GuestLoaded, GuestPaused, GuestRunning, VmmGone, VmmSpawned
from worker.steps.image import ImageAbsent, ImageConsumed, ImagePublished, ImageSealed, RoomForImage
from worker.steps.record import StatusRecorded

VMSTATE_ROOM_BYTES = 16 * MIB


def sleep(grounds: Grounds, request_id: str, *, force: bool) -> Plan:
    """The guest's memory goes to a durable image, then the guest goes."""
    facts = grounds.facts
    spec = standing_spec(facts)
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
    return Plan((*gone(grounds, final=True), recorded), "sleeping")


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
            *confined(grounds, place, spec),
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
            recorded_running(grounds, place),
        ),
        "running",
    )


def _manifest(spec: VmSpec, grounds: Grounds, request_id: str) -> dict[str, Any]:
    doc = grounds.facts.instance
    return {
        "spec": spec_to_builtins(spec),
        "request_id": request_id,
        "made_at": grounds.facts.at,
        "revision_hash": doc.fields.revision_hash if doc else None,
        "kind": "Full",
    }
