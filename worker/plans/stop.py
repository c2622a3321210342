"""Stop: nothing of the guest runs.  Stopping mirrors starting: made last, removed first."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from enqueue.requests import StopInstance
from worker.errors import Lost
from worker.model.names import InstanceRef
from worker.plans.action import UNCHANGED, Action
from worker.plans.facts import InstanceFacts
from worker.plans.plan import Plan
from worker.plans.shared import PlanInputs, teardown_steps
from worker.ports import VmmState
from worker.steps.image import ImageAbsent
from worker.steps.record import StatusRecorded


def choose(request: StopInstance, facts: InstanceFacts) -> Action:
    """What a Stop does."""
    stopped = facts.status in ("created", "ready", "stopped") and facts.vmm is VmmState.GONE
    return UNCHANGED if stopped and not facts.image else STOP


def stop(inputs: PlanInputs) -> Plan:
    """Nothing of the guest runs; its data volume stays."""
    ref, pool = inputs.facts.ref, inputs.facts.pool
    grace_s = inputs.bounded(pool.runtime_policy.graceful_shutdown_seconds) if pool else 0.0
    recorded = StatusRecorded(ref, "stopped", stamps={"last_stopped_at": inputs.facts.at})
    return Plan((*teardown_steps(inputs, grace_s=grace_s), ImageAbsent(ref), recorded), "stopped")


def lost(inputs: PlanInputs) -> Plan:
    """The guest's memory is gone: what is left is stopped, and the request fails with that."""
    return replace(stop(inputs), fails_with=memory_lost(inputs.facts.ref))


STOP: Final = Action("stop", stop)
LOST: Final = Action("lost", lost)


def memory_lost(ref: InstanceRef) -> Lost:
    """The error for a guest whose memory cannot be restored."""
    return Lost(
        "memory_lost",
        f"the memory of {ref} is gone: no VMM lives and no usable image exists",
        hint="its disks are kept; start it to boot it afresh",
    )
