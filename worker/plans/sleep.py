"""Sleep: the guest's memory goes to a durable image, then the guest goes."""

from __future__ import annotations

from typing import Any, Final

from enqueue.documents import Compression
from enqueue.requests import SleepInstance
from worker.errors import Conflict
from worker.plans.action import UNCHANGED, Action
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import MIB, SECRETS_DISK_MIB
from worker.plans.image_manifest import spec_to_builtins
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, living_spec, teardown_steps
from worker.plans.stop import LOST
from worker.ports import VmmState, VmSpec
from worker.steps.image import ImageAbsent, ImagePublished, ImageSealed, RoomForImage
from worker.steps.record import StatusRecorded
from worker.steps.step import Step
from worker.steps.vm import GuestPaused, GuestRunning

BESIDE_ROOM_BYTES = 1 * MIB  # manifest, directories, what a codec adds to incompressible data


def choose(request: SleepInstance, facts: InstanceFacts) -> Action:
    """What a Sleep does.

    Raises:
        Conflict: `not_running`.
    """
    if facts.status in ("running", "warm", "sleeping"):
        if facts.vmm is VmmState.RUNNING:
            return SLEEP  # an image beside a running guest is stale
        if facts.published:
            asleep = facts.status == "sleeping" and facts.vmm is VmmState.GONE
            return UNCHANGED if asleep else FINISH_SLEEP
        return SLEEP if facts.vmm is VmmState.PAUSED else LOST
    if facts.retry_of_failed_run and facts.status == "stopped":
        return LOST  # no request has stopped it: hostd found its guest gone
    raise Conflict(
        "not_running", f"{facts.ref} is {facts.status}, not running", hint="start it first"
    )


def sleep(inputs: PlanInputs) -> Plan:
    """The guest's memory goes to a durable image, then the guest goes.

    Raises:
        Conflict: `no_spec`, the jail has no record of it; `diff_unsupported`.
    """
    facts, request_id, drain_s = inputs.facts, inputs.request_id, _drain_s(inputs)
    spec = living_spec(facts)
    if spec is None:
        raise Conflict("no_spec", f"{facts.ref} runs, but its jail has no record of its spec")
    compression = _compression(inputs)
    first: list[Step] = [ImageAbsent(facts.ref)]
    if facts.vmm is VmmState.PAUSED and drain_s:  # only a guest that runs can drain
        first.append(GuestRunning(facts.ref))
    with_secrets = any(drive.id == "secrets" for drive in spec.drives)
    packed_mib = 0 if compression == "none" else spec.mem_mib
    beside_bytes = (packed_mib + with_secrets * SECRETS_DISK_MIB) * MIB + BESIDE_ROOM_BYTES
    manifest = _manifest(spec, inputs, compression)
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
    facts = inputs.facts
    recorded = StatusRecorded(facts.ref, "sleeping", stamps={"last_stopped_at": facts.at})
    return Plan((*teardown_steps(inputs, final=True), recorded), "sleeping")


SLEEP: Final = Action("sleep", sleep)
FINISH_SLEEP: Final = Action("finish_sleep", finish_sleep)  # published; only the rest is missing


def _drain_s(inputs: PlanInputs) -> float | None:
    """How long the guest may take to drain before it is paused, in seconds; None: no drain."""
    request = inputs.request if isinstance(inputs.request, SleepInstance) else None
    if not inputs.policy.guest_agent or (request is not None and request.force):
        return None
    if request is not None and request.drain_timeout_secs is not None:
        return inputs.bounded(request.drain_timeout_secs)
    return inputs.bounded(inputs.policy.drain_timeout_seconds)


def _compression(inputs: PlanInputs) -> Compression:
    """How the pool wants its images compressed.

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
            f'"{pool.snapshot_type}", and hostd makes Full snapshots only; the guest keeps running',
            hint='set snapshot_type to "Full" in pool.json, or leave it out',
        )
    return pool.snapshot_compression


def _manifest(spec: VmSpec, inputs: PlanInputs, compression: Compression) -> dict[str, Any]:
    doc = inputs.facts.instance
    return {
        "spec": spec_to_builtins(spec),
        "request_id": inputs.request_id,
        "made_at": inputs.facts.at,
        "revision_hash": doc.fields.revision_hash if doc else None,
        "kind": "Full",
        "compression": compression,
    }
