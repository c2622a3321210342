"""What plans of an instance rest on and share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worker.documents import PoolDoc
from worker.errors import Conflict
from worker.facts import InstanceFacts
from worker.plans.build import Place, limits
from worker.plans.network import network_steps
from worker.ports import VmmState, VmSpec
from worker.settings import Settings
from worker.steps.base import Step
from worker.steps.confine import CgroupAbsent, CgroupPresent, JailAbsent, TapAbsent, TapPresent
from worker.steps.disks import SecretsAbsent
from worker.steps.guest import VmmGone
from worker.steps.record import StatusRecorded


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


def confined(grounds: Grounds, place: Place, spec: VmSpec) -> tuple[Step, ...]:
    """Network, TAP and control group stand."""
    ref, settings = grounds.facts.ref, grounds.settings
    return (
        *network_steps(ref.tenant_id, place.net, settings),
        TapPresent(ref, spec.tap, place.net.bridge_name, spec.uid),
        CgroupPresent(ref, limits(spec, overhead_mib=settings.overhead_mib)),
    )


def gone(grounds: Grounds, *, grace_s: float = 0.0, final: bool = False) -> tuple[Step, ...]:
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


def standing_spec(facts: InstanceFacts) -> VmSpec | None:
    """What the living guest was built from: the pool may have changed since."""
    return facts.spec if facts.vmm in (VmmState.RUNNING, VmmState.PAUSED) else None


def recorded_running(grounds: Grounds, place: Place, **more: Any) -> StatusRecorded:
    values = {"net": place.record(), **more}
    stamps = {"last_started_at": grounds.facts.at, "entered_running_at": grounds.facts.at}
    return StatusRecorded(grounds.facts.ref, "running", values, stamps)
