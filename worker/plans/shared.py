"""What plans of an instance are made from, and the steps that several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from enqueue.documents import PoolDoc, RuntimePolicy
from enqueue.requests import InstanceRequest
from worker.errors import Conflict
from worker.plans.facts import InstanceFacts
from worker.plans.guest_spec import DATA, Place, limits
from worker.plans.network import network_steps
from worker.plans.settings import Settings
from worker.ports import GuestRules, ImageFiles, VmSpec
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
    """What a plan of an instance is made from.

    `place` is None before its first start.  Without `request`, hostd reconciles by itself.
    """

    facts: InstanceFacts
    place: Place | None
    settings: Settings
    request: InstanceRequest | None = None
    request_id: str = ""

    @property
    def reserved(self) -> Place:
        """The place, for an action that needs one."""
        assert self.place is not None  # noqa: S101  `Action.needs_place`: it has been reserved
        return self.place

    @property
    def pool(self) -> PoolDoc:
        """The pool's document; reserving has checked that it exists."""
        if self.facts.pool is None:
            raise Conflict("unknown_pool", f"pool {self.facts.ref.pool_id} has no pool.json")
        return self.facts.pool

    @property
    def policy(self) -> RuntimePolicy:
        """The pool's times; the defaults if a guest has outlived its pool's document."""
        return self.facts.pool.runtime_policy if self.facts.pool else RuntimePolicy()

    def bounded(self, wait_s: float) -> float:
        """`wait_s`, at most as long as a step may wait for a guest."""
        return min(float(wait_s), self.settings.guest_wait_s)


def vmm_up_steps(
    inputs: PlanInputs,
    spec: VmSpec,
    disks: tuple[Step, ...],
    image: ImageFiles | None = None,
    unfinished: tuple[Step, ...] = (),
) -> tuple[Step, ...]:
    """A VMM without a guest is up in a fresh jail and its control group, with its TAP.

    `disks` are done before the jail is built; `unfinished` ones (a data disk's step) need only have
    begun.  The network is set up while the VMM starts, which takes longer.  The rules that bind the
    TAP to its guest's addresses come before the TAP.
    """
    ref, place, settings = inputs.facts.ref, inputs.reserved, inputs.settings
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
    """The guest's agent, if its pool has one, was notified that the guest runs again."""
    return (GuestNotified(inputs.facts.ref),) if inputs.policy.guest_agent else ()


def teardown_steps(
    inputs: PlanInputs, *, grace_s: float = 0.0, final: bool = False
) -> tuple[Step, ...]:
    """The mirror of `vmm_up_steps`; disks on the host stay, closed."""
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


def living_spec(facts: InstanceFacts) -> VmSpec | None:
    """The spec that a living guest was built from: the pool may have changed since."""
    return facts.spec if facts.alive else None


def recorded_running(inputs: PlanInputs, **more: Any) -> StatusRecorded:
    """instance.json says that the guest runs, at its place in the network, and `more`."""
    values = {"net": inputs.reserved.record(), **more}
    stamps = {"last_started_at": inputs.facts.at, "entered_running_at": inputs.facts.at}
    return StatusRecorded(inputs.facts.ref, "running", values, stamps)
