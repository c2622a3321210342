"""What plans of an instance rest on and share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enqueue.documents import PoolDoc, RuntimePolicy
from worker.errors import Conflict
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import DATA, Place, limits
from worker.plans.network import network_steps
from worker.plans.settings import Settings
from worker.ports import GuestRules, ImageFiles, VmmState, VmSpec
from worker.steps.agent import GuestNotified
from worker.steps.confinement import (
    CgroupAbsent,
    CgroupPresent,
    GuestRulesAbsent,
    JailAbsent,
    JailFresh,
    SpoofingBarred,
    TapAbsent,
    TapPresent,
)
from worker.steps.disks import DiskClosed, SecretsAbsent
from worker.steps.record import StatusRecorded
from worker.steps.step import Step
from worker.steps.vm import VmmGone, VmmLaunched, VmmSpawned


@dataclass(frozen=True, slots=True)
class PlanInputs:
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

    @property
    def policy(self) -> RuntimePolicy:
        """The pool's times; the usual ones for a guest that has outlived its pool's document."""
        return self.facts.pool.runtime_policy if self.facts.pool else RuntimePolicy()

    def bounded(self, wait_s: float) -> float:
        """The wait for a guest, in seconds, within what a step may take."""
        return min(float(wait_s), self.settings.guest_wait_s)


def vmm_up_steps(
    inputs: PlanInputs,
    place: Place,
    spec: VmSpec,
    disks: tuple[Step, ...],
    image: ImageFiles | None = None,
    unfinished: tuple[Step, ...] = (),
) -> tuple[Step, ...]:
    """A VMM without a guest is up in a fresh jail and its control group, and its TAP stands.

    `disks` are done before the jail is built, `unfinished` ones (a data disk's step) need only have
    begun.  The network is seen to while the VMM comes up, which takes longer; the TAP is held to
    its guest's addresses before it is there.
    """
    ref, settings = inputs.facts.ref, inputs.settings
    return (
        CgroupPresent(ref, limits(spec, overhead_mib=settings.overhead_mib)),
        *disks,
        JailFresh(spec, image, frozenset({DATA}) if unfinished else frozenset()),
        VmmLaunched(spec, settings.kill_timeout_s),
        *network_steps(ref.tenant_id, place.net, settings),
        SpoofingBarred(GuestRules(spec.tap, spec.mac, place.ip)),
        TapPresent(ref, spec.tap, place.net.bridge_name, spec.uid),
        *unfinished,
        VmmSpawned(spec, settings.kill_timeout_s),
    )


def notify_steps(inputs: PlanInputs) -> tuple[Step, ...]:
    """The guest's agent, if its pool has one, was told that the guest runs again."""
    return (GuestNotified(inputs.facts.ref),) if inputs.policy.guest_agent else ()


def teardown_steps(
    inputs: PlanInputs, *, grace_s: float = 0.0, final: bool = False
) -> tuple[Step, ...]:
    """The mirror of `start`; disks on the host stay, closed."""
    ref, timeout_s = inputs.facts.ref, inputs.settings.kill_timeout_s
    net = inputs.facts.instance.fields.net if inputs.facts.instance else None
    taps = {net.tap_dev} if net else set()
    if inputs.place:
        taps.add(inputs.place.tap)
    return (
        VmmGone(ref, timeout_s, grace_s=grace_s, agent=inputs.policy.guest_agent, final=final),
        JailAbsent(ref),
        DiskClosed(ref),
        *(TapAbsent(tap) for tap in sorted(taps)),
        *(GuestRulesAbsent(tap) for tap in sorted(taps)),
        CgroupAbsent(ref, timeout_s),
        SecretsAbsent(ref),
    )


def standing_spec(facts: InstanceFacts) -> VmSpec | None:
    """What the living guest was built from: the pool may have changed since."""
    return facts.spec if facts.vmm in (VmmState.RUNNING, VmmState.PAUSED) else None


def recorded_running(inputs: PlanInputs, place: Place, **more: Any) -> StatusRecorded:
    values = {"net": place.record(), **more}
    stamps = {"last_started_at": inputs.facts.at, "entered_running_at": inputs.facts.at}
    return StatusRecorded(inputs.facts.ref, "running", values, stamps)
