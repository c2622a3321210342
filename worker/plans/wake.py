"""Wake: the guest runs on from its image, once."""

from __future__ import annotations

from typing import Final

from enqueue.documents import is_up
from enqueue.requests import WakeInstance
from worker.errors import Conflict
from worker.model.names import InstanceRef
from worker.plans.action import Action
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import Place, crypt_disk
from worker.plans.image_manifest import incompatibilities, spec_from_builtins
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, notify_steps, recorded_running, vmm_up_steps
from worker.plans.start import choose_for_living
from worker.plans.stop import LOST
from worker.ports import Image, VmmState, VmSpec
from worker.steps.disks import DiskOpen, SecretsRestored
from worker.steps.image import ImageAbsent, ImageConsumed, MemoryUnpacked
from worker.steps.step import Step
from worker.steps.vm import GuestLoaded, GuestRunning, VmmGone

_DELTA_HINT: Final = (
    "snapshots/delta holds only the pages that differ from another file, and no digest to tell "
    "whether that file is still the same: hostd never loads it; stop the instance, then start it"
)


def choose(request: WakeInstance, facts: InstanceFacts) -> Action:
    """What a Wake does.

    Raises:
        Conflict: `no_image`, `instance_sleeping`.
    """
    if is_up(facts.status) and facts.alive:
        return choose_for_living(facts)
    if facts.status in ("running", "warm", "sleeping"):
        if facts.published:
            # A guest that runs beside its image has changed since: the image is stale.
            return FINISH_WAKE if facts.vmm is VmmState.RUNNING else WAKE
        if facts.alive:
            return FINISH_WAKE
        if facts.image or facts.status != "sleeping":
            return LOST
    raise Conflict(
        "no_image",
        f"{facts.ref} is {facts.status} and has no sleep image",
        hint=_DELTA_HINT if facts.delta_exists else "start it instead",
    )


def wake(inputs: PlanInputs) -> Plan:
    """The guest runs on from its image, which is consumed before a vCPU runs.

    Raises:
        Conflict: `image_incompatible`, this host cannot load it; `image_foreign`.
    """
    facts, image = inputs.facts, inputs.facts.image
    assert image is not None  # noqa: S101  `choose` has seen it
    _check_compatible(inputs, image)
    spec = spec_from_builtins(image.manifest["spec"])
    _check_own(spec, facts.ref, inputs.reserved)
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
            *vmm_up_steps(inputs, spec, tuple(disks), image.files),
            GuestLoaded(spec),
            ImageConsumed(facts.ref),
            *_running_without_image(inputs, just_marked=True),
        ),
        "running",
    )


def finish_wake(inputs: PlanInputs) -> Plan:
    """The image is consumed, or stale: the guest runs and the image goes."""
    return Plan(_running_without_image(inputs), "running")


WAKE: Final = Action("wake", wake, needs_place=True, needs_quota=True)
FINISH_WAKE: Final = Action("finish_wake", finish_wake, needs_place=True)


def _running_without_image(inputs: PlanInputs, *, just_marked: bool = False) -> tuple[Step, ...]:
    return (
        GuestRunning(inputs.facts.ref, just_marked=just_marked),
        *notify_steps(inputs),
        ImageAbsent(inputs.facts.ref),
        recorded_running(inputs),
    )


def _check_own(spec: VmSpec, ref: InstanceRef, place: Place) -> None:
    """Another guest's image holds that guest's memory, address and disks.

    Raises:
        Conflict: `image_foreign`.
    """
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
