"""Makes an instance's record and its VMM agree, at the beginning of a turn.

Every instance is reconciled once after hostd has started, at its first request or by a story behind
all requests; and again when its VMM has ended by itself.
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

_ACTIONS: Final = {  # decides which reservations each needs
    Finding.ADOPTED: UNCHANGED,
    Finding.STOPPED: STOP,
    Finding.LOST: STOP,
    Finding.ASLEEP: FINISH_SLEEP,
    Finding.AWAKE: FINISH_WAKE,
}


class NoJournal:
    """Reconciling needs no journal: each step checks first, and none is undone."""

    def began(self, request_id: str, step: str, now_ms: int) -> None: ...
    def finished(self, request_id: str, step: str, now_ms: int) -> None: ...
    def undone(self, request_id: str, steps: Sequence[str]) -> None: ...
    def begun_steps(self, request_id: str) -> frozenset[str]:
        """None."""
        return frozenset()


def reconcile_story(ref: InstanceRef, ctx: Context) -> Iterator[Wait]:
    """Reconciles one instance, in case no request for it arrives."""
    yield Turn({("instance", ref.instance_id): EXCLUSIVE, ("tenant", ref.tenant_id): SHARED})
    if ref.instance_id not in ctx.unreconciled:
        return
    name = f"reconcile-{ref.instance_id}"
    try:
        with ctx.locks.instance(ref.tenant_id, ref.instance_id, request_id=name):
            reconcile(ref, ctx)
    except HostdError as error:
        log.warning("%s is not reconciled yet: %s", ref, error)


def reconcile_one(ref: InstanceRef, ended: str, ctx: Context) -> None:
    """Submits a story that reconciles an instance whose VMM has ended; `ended` says how.

    After a Stop or a Sleep it finds nothing to do.
    """
    ctx.unreconciled.add([ref.instance_id], Why(ended=ended))
    ctx.executors.submit(reconcile_story(ref, ctx))


def reconcile(ref: InstanceRef, ctx: Context) -> Finding:
    """Makes record and VMM agree; the caller holds the instance's lock.

    Raises:
        HostdError: it failed; the next story that gets the instance's turn tries again.
    """
    why = ctx.unreconciled.reason(ref.instance_id)
    if why is None:
        return Finding.NOTHING
    facts = _facts(ref, ctx)
    finding, before = _find(facts, ctx.ledger.instances.status(ref.instance_id))
    if finding is not Finding.NOTHING:
        outcome = _execute(finding, facts, ctx)
        if outcome.error is not None:
            raise outcome.error
        _announce(finding, facts, before, _reason(finding, facts, before, why), why, ctx)
    ctx.watch(ref)
    ctx.unreconciled.done(ref.instance_id)
    return finding


def _find(facts: InstanceFacts, published: str | None) -> tuple[Finding, str | None]:
    """What was found, and the instance's status before.

    `published` is the status in the last event.  If reconciling was killed after the record was
    written and before its event was, all of it is done again: its steps hold already, and what they
    freed and changed is published.
    """
    finding, status = finding_for(facts), facts.status
    unpublished = published in ("running", "warm", "sleeping") and published != status
    if finding not in (Finding.NOTHING, Finding.ADOPTED) or not unpublished:
        return finding, status
    match status:
        case "created" | "ready" | "stopped":
            return (Finding.LOST if published == "sleeping" else Finding.STOPPED), published
        case "sleeping":
            return Finding.ASLEEP, published
        case "running" | "warm":
            return Finding.AWAKE, published
        case None | "destroyed":
            return finding, status
        case _:
            assert_never(status)


def _facts(ref: InstanceRef, ctx: Context) -> InstanceFacts:
    at = format_iso(ctx.clock.now_ms())
    return instance_facts(ref, ctx.host, layout=ctx.settings.layout, at=at, tolerant=True)


def _execute(finding: Finding, facts: InstanceFacts, ctx: Context) -> Outcome:
    if finding is Finding.LEFT:
        return Outcome((), {})
    place = reserve_instance(_ACTIONS[finding], facts, ctx.ledger, ctx.settings)
    plan = reconcile_plan(finding, PlanInputs(facts, place, ctx.settings))
    return execute(
        plan.steps,
        host=ctx.host,
        journal=NoJournal(),
        request_id=f"reconcile-{facts.ref.instance_id}",
        clock=ctx.clock,
        deadline_s=ctx.clock.monotonic() + ctx.config.worker.request_timeout_s,
    )


def _reason(finding: Finding, facts: InstanceFacts, before: str | None, why: Why) -> str:
    """Why the record changes, or does not, as one word for agentd."""
    match finding:
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
    finding: Finding,
    facts: InstanceFacts,
    published: str | None,
    reason: str,
    why: Why,
    ctx: Context,
) -> None:
    ref, now_ms = facts.ref, ctx.clock.now_ms()
    doc = ctx.host.records.instance(ref) if finding is not Finding.LEFT else facts.instance
    before, after = published or "unknown", doc.fields.status if doc else "unknown"
    found = events.InstanceReconciled(
        at_ms=now_ms, tenant_id=ref.tenant_id, pool_id=ref.pool_id, instance_id=ref.instance_id,
        finding=finding.value, before=before, after=after, reason=reason, ended=why.ended,
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
    ctx.metrics.reconciled.labels(finding.value).inc()
    ended = f"; its VMM had ended: {why.ended}" if why.ended else ""
    log.info("reconciled %s: %s, %s -> %s (%s)%s", ref, finding.value, before, after, reason, ended)
