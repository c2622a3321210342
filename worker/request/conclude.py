"""Ends a request: writes its result and events and frees its reservations, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enqueue.requests import InstanceRequest, NetworkRequest, Ping, Request, op_of
from enqueue.results import Done, Failed, Result
from worker.errors import HostdError
from worker.ledger.entries import LedgerEntry
from worker.ledger.instances import Change
from worker.model.names import InstanceRef
from worker.protocol import events
from worker.protocol.verification import VerifiedRequest
from worker.request.context import Context
from worker.steps.engine import Outcome
from worker.steps.record import RECORDED


def concluded(
    request: Request,
    entry: LedgerEntry,
    outcome: Outcome,
    state: str,
    *,
    changed: bool,
    issued_at_ms: int,
    now_ms: int,
) -> Result:
    """The result of an ended request; `changed`: any of its attempts changed the host."""
    began_ms = entry.began_at_ms or now_ms
    common: Mapping[str, Any] = {
        "op": op_of(request),
        "attempts": entry.attempts,
        # Floats, as once decoded: a result has the same bytes however often it is published.
        "queued_ms": float(max(0, began_ms - issued_at_ms)),
        "took_ms": float(max(0, now_ms - began_ms)),
        "steps": outcome.reports,
    }
    if outcome.error is None:
        return Done(changed=changed, state=state, detail=dict(outcome.detail), **common)
    error = outcome.error
    detail = dict(outcome.detail) | ({"undone": outcome.undone} if outcome.undone else {})
    return Failed(
        code=error.code,
        failure_class=error.failure_class,
        message=str(error),
        hint=error.hint,
        detail=detail,
        **common,
    )


def decide(
    verified: VerifiedRequest, result: Result, ctx: Context, *, before: str | None = None
) -> Result:
    """Writes the result and its events, and frees reservations, in one transaction."""
    request, now_ms = verified.body.request, ctx.clock.now_ms()
    ended = events.RequestEnded(
        at_ms=now_ms,
        request_id=verified.body.request_id,
        op=op_of(request),
        outcome=events.outcome_of(result),
        changed=isinstance(result, Done) and result.changed,
        state=result.state if isinstance(result, Done) else None,
        code=result.code if isinstance(result, Failed) else None,
        tenant_id=getattr(request, "tenant_id", None),
        instance_id=getattr(request, "instance_id", None),
    )
    news: list[events.Event] = [ended]
    with ctx.ledger.transaction():
        change = None
        if isinstance(request, NetworkRequest):
            if ctx.host.links.bridge(request.net.bridge_name) is None and _was_holder(result):
                ctx.ledger.reservations.release_network(request.net)
        elif not isinstance(request, Ping):
            change, moved = _status_now(request, verified, ctx, before)
            news = [*moved, ended]
        ctx.ledger.decide(
            verified.body.request_id,
            result,
            now_ms=now_ms,
            events=[events.encode(event) for event in news],
            change=change,
        )
    return result


def _was_holder(result: Result) -> bool:
    """Whether the network is reserved for this tenant: after a conflict it may be another's."""
    return not isinstance(result, Failed) or result.failure_class in ("transient", "broken")


def _status_now(
    request: InstanceRequest, verified: VerifiedRequest, ctx: Context, before: str | None
) -> tuple[Change | None, list[events.Event]]:
    """Frees reservations; returns the status after the request and the event of its change."""
    ref = InstanceRef.of(request)
    try:
        doc = ctx.host.records.instance(ref)
    except HostdError:
        return None, []  # an unreadable record: its reservations are kept
    if doc is None:
        ctx.ledger.reservations.release_unneeded(ref, "destroyed" if before is not None else None)
        return None, []
    after = doc.fields.status
    ctx.ledger.reservations.release_unneeded(ref, after)
    if before is None:
        return None, []  # it changed nothing: reconciling publishes what is unpublished
    change = Change(ref.instance_id, ref.tenant_id, ref.pool_id, after)
    published = ctx.ledger.instances.status(ref.instance_id)
    wrote = before == after and RECORDED in ctx.ledger.journal.begun_steps(verified.body.request_id)
    if wrote or published in ("running", "warm", "sleeping"):
        before = published  # a kill came between writing the record and its event
    if before == after:
        return change, []
    moved = events.InstanceChanged(
        at_ms=ctx.clock.now_ms(),
        tenant_id=ref.tenant_id,
        pool_id=ref.pool_id,
        instance_id=ref.instance_id,
        before=before,
        after=after,
        reason=op_of(request),
        request_id=verified.body.request_id,
    )
    return change, [moved]
