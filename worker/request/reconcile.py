"""An instance's record and its machine are brought to agree, at the head of a turn of its own.

Done for every instance once after hostd has started, by whoever gets its turn first: a request, or
a story of its own behind all requests.  And for one whose VMM has ended by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from enqueue.documents import is_up
from enqueue.times import format_iso
from worker.errors import HostdError
from worker.ledger.instances import Change
from worker.model.names import InstanceRef
from worker.plans.action import UNCHANGED
from worker.plans.facts import InstanceFacts, instance_facts
from worker.plans.reconcile import Finding, finding_for, reconcile_plan
from worker.plans.shared import PlanInputs
from worker.plans.sleep import FINISH_SLEEP
from worker.plans.stop import STOP
from worker.plans.wake import FINISH_WAKE
from worker.ports import VmmState
from worker.protocol import events
from worker.request.context import Context
from worker.request.reserve import reserve_instance
from worker.scheduling.turns import EXCLUSIVE, SHARED
from worker.scheduling.unreconciled import Why
from worker.scheduling.waits import Turn, Wait
from worker.steps.engine import Outcome, execute

log = logging.getLogger("hostd")

_ACTIONS: Final = {  # what each may need of reservations
    Finding.ADOPTED: UNCHANGED,
    Finding.STOPPED: STOP,
    Finding.LOST: STOP,
    Finding.ASLEEP: FINISH_SLEEP,
    Finding.AWAKE: FINISH_WAKE,
}


class NoJournal:
    """A settlement needs no memory: each of its steps looks first, and none is taken back."""

    def began(self, request_id: str, step: str, now_ms: int) -> None: ...
    def finished(self, request_id: str, step: str, now_ms: int) -> None: ...
    def undone(self, request_id: str, steps: Sequence[str]) -> None: ...
    def begun_steps(self, request_id: str) -> frozenset[str]:
        """None."""
        return frozenset()


def reconcile_story(ref: InstanceRef, ctx: Context) -> Iterator[Wait]:
    """The story of an instance that no request may come for."""
    yield Turn({("instance", ref.instance_id): EXCLUSIVE, ("tenant", ref.tenant_id): SHARED})
    if ref.instance_id not in ctx.unreconciled:
        return
    name = f"settle-{ref.instance_id}"
    try:
        with ctx.locks.instance(ref.tenant_id, ref.instance_id, request_id=name):
            reconcile(ref, ctx)
    except HostdError as error:
        log.warning("%s is not settled yet: %s", ref, error)


def reconcile_one(ref: InstanceRef, ended: str, ctx: Context) -> None:
    """The instance's VMM has ended, in this way: it is settled when its turn comes.

    After a Stop or a Sleep there is nothing left to do.
    """
    ctx.unreconciled.add([ref.instance_id], Why(ended=ended))
    ctx.executors.submit(reconcile_story(ref, ctx))


def reconcile(ref: InstanceRef, ctx: Context) -> Finding:
    """Record and machine agree; the caller holds the instance's lock.

    Raises:
        HostdError: not yet; the next one to get its turn tries again.
    """
    why = ctx.unreconciled.reason(ref.instance_id)
    if why is None:
        return Finding.NOTHING
    facts = _facts(ref, ctx)
    settled, before = _due(facts, ctx.ledger.instances.status(ref.instance_id))
    if settled is not Finding.NOTHING:
        outcome = _carried_out(settled, facts, ctx)
        if outcome.error is not None:
            raise outcome.error
        _announce(settled, facts, before, _reason(settled, facts, before, why), why, ctx)
    ctx.watch(ref)
    ctx.unreconciled.done(ref.instance_id)
    return settled


def _due(facts: InstanceFacts, told: str | None) -> tuple[Finding, str | None]:
    """What becomes of it, and its status before.

    `told` is the status as it was last told of.  A settlement that was killed when the record was
    written but not yet told of is done again, whole: its steps hold, and what they freed and what
    changed are told.
    """
    settled, status = finding_for(facts), facts.status
    untold = told in ("running", "warm", "sleeping") and told != status
    if settled not in (Finding.NOTHING, Finding.ADOPTED) or not untold:
        return settled, status
    match status:
        case "created" | "ready" | "stopped":
            return (Finding.LOST if told == "sleeping" else Finding.STOPPED), told
        case "sleeping":
            return Finding.ASLEEP, told
        case "running" | "warm":
            return Finding.AWAKE, told
        case None | "destroyed":
            return settled, status
        case _:
            assert_never(status)


def _facts(ref: InstanceRef, ctx: Context) -> InstanceFacts:
    at = format_iso(ctx.clock.now_ms())
    return instance_facts(ref, ctx.host, layout=ctx.settings.layout, at=at, tolerant=True)


def _carried_out(settled: Finding, facts: InstanceFacts, ctx: Context) -> Outcome:
    if settled is Finding.LEFT:
        return Outcome((), {})
    place = reserve_instance(_ACTIONS[settled], facts, ctx.ledger, ctx.settings)
    plan = reconcile_plan(settled, PlanInputs(facts, place, ctx.settings))
    return execute(
        plan.steps,
        host=ctx.host,
        journal=NoJournal(),
        request_id=f"settle-{facts.ref.instance_id}",
        clock=ctx.clock,
        deadline_s=ctx.clock.monotonic() + ctx.config.worker.request_timeout_s,
    )


def _reason(settled: Finding, facts: InstanceFacts, before: str | None, why: Why) -> str:
    """Why the record changes, or does not, in one word for agentd."""
    match settled:
        case Finding.STOPPED if is_up(before):
            return "host_restarted" if why.rebooted else "guest_exited"
        case Finding.STOPPED:
            return "stray_vmm" if facts.vmm is not VmmState.GONE else "stray_image"
        case Finding.LOST:
            return "memory_lost"
        case Finding.ASLEEP:
            return "sleep_finished"
        case Finding.AWAKE:
            return "guest_lives"
        case Finding.LEFT:
            return "unreadable"
        case Finding.ADOPTED | Finding.NOTHING:
            return "hostd_restarted"


def _announce(
    settled: Finding,
    facts: InstanceFacts,
    told: str | None,
    reason: str,
    why: Why,
    ctx: Context,
) -> None:
    ref, now_ms = facts.ref, ctx.clock.now_ms()
    doc = ctx.host.records.instance(ref) if settled is not Finding.LEFT else facts.instance
    before, after = told or "unknown", doc.fields.status if doc else "unknown"
    found = events.InstanceReconciled(
        at_ms=now_ms, tenant_id=ref.tenant_id, pool_id=ref.pool_id, instance_id=ref.instance_id,
        finding=settled.value, before=before, after=after, reason=reason, ended=why.ended,
    )  # fmt: skip
    news: list[events.Event] = [found]
    if before != after:
        news.insert(0, events.InstanceChanged(
            at_ms=now_ms, tenant_id=ref.tenant_id, pool_id=ref.pool_id,
            instance_id=ref.instance_id, before=before, after=after, reason=reason,
        ))  # fmt: skip
    change = Change(ref.instance_id, ref.tenant_id, ref.pool_id, after) if doc else None
    with ctx.ledger.transaction():
        if doc is not None:
            ctx.ledger.reservations.release_unneeded(ref, after)
        ctx.ledger.record_events([events.encode(event) for event in news], change, now_ms=now_ms)
    ctx.metrics.reconciled.labels(settled.value).inc()
    ended = f"; its VMM had ended: {why.ended}" if why.ended else ""
    log.info("settled %s: %s, %s -> %s (%s)%s", ref, settled.value, before, after, reason, ended)
