"""The requests that hostd makes itself to drain; in the ledger they are like any other."""

from __future__ import annotations

from typing import Final

import msgspec

from enqueue.envelope import DEFAULT_LIFETIME_MS, MAX_LIFETIME_MS, Body, encode_body, encode_call
from enqueue.requests import HostName, InstanceRequest, RequestId, op_of
from enqueue.results import Done
from worker.drain import policy as plans
from worker.drain.policy import Drain, Guest, with_guest
from worker.drain.store import load, ref_of
from worker.errors import Conflict, HostdError
from worker.job import accept, publish_story
from worker.ledger.entries import LedgerEntry
from worker.protocol.results import refused
from worker.protocol.verification import OWN_ISSUERS, VerifiedRequest, is_own, trusted
from worker.request.cancel import end_waiting
from worker.request.conclude import decide
from worker.request.context import Context

ISSUER: Final = f"{OWN_ISSUERS}drain"
LATER_REQUESTS: Final = 100
TOO_LATE: Final = Conflict(
    "cancelled",
    "the drain's deadline passed, or it was called off, before this could begin",
    hint="drain again, with a later deadline",
)
Recorded = tuple[VerifiedRequest, LedgerEntry]


def put_away(guest: Guest, drain: Drain, ctx: Context, *, now_ms: int) -> tuple[Drain, Recorded]:
    """Records the guest's Sleep or Stop; returns the drain with it, and the request."""
    patience_s = _patience_s(guest, ctx)
    request = plans.request_of(guest, drain, now_ms=now_ms, patience_s=patience_s)
    tries = guest.tries + 1
    name = f"drain-{drain.id}-{guest.instance_id}" + (f"-{tries}" if tries > 1 else "")
    until_ms = min(max(drain.deadline_ms, now_ms), now_ms + MAX_LIFETIME_MS)
    verified, entry = _record(request, name, ctx, now_ms=now_ms, until_ms=until_ms)
    begun = msgspec.structs.replace(
        guest, request_id=name, seq=entry.seq, begun_ms=now_ms, tries=tries
    )
    return with_guest(drain, begun), (verified, entry)


def bring_back(
    guest: Guest, drain: Drain, ctx: Context, *, now_ms: int
) -> tuple[Drain, Recorded | None]:
    """Records the guest's Wake or Start, or in the drain why there is none."""
    reason = plans.why_left(guest, status=_status(guest, ctx), later=_decided_later(guest, ctx))
    if reason is not None:
        return with_guest(drain, msgspec.structs.replace(guest, left=reason)), None
    name = f"undrain-{drain.id}-{guest.instance_id}"
    until_ms = now_ms + DEFAULT_LIFETIME_MS
    asked = _record(plans.request_back(guest), name, ctx, now_ms=now_ms, until_ms=until_ms)
    return with_guest(drain, msgspec.structs.replace(guest, back=name)), asked


def with_outcomes(drain: Drain, ctx: Context) -> Drain:
    """The drain with the outcomes of its requests that have ended."""
    for guest in drain.guests:
        if guest.request_id is None or not guest.in_flight:
            continue
        entry = ctx.ledger.requests.entry(guest.request_id)
        if entry.state != "accepted" and entry.result is not None:
            outcome = plans.outcome_of(entry.result)
            drain = with_guest(drain, msgspec.structs.replace(guest, outcome=outcome))
    return drain


def withdraw(ctx: Context) -> None:
    """Ends the drain's requests that wait and left nothing behind, without running them."""
    with ctx.ledger.transaction():
        drain = load(ctx.ledger)
        flying = {guest.request_id for guest in drain.guests if guest.in_flight} if drain else ()
        decided = end_waiting(
            lambda entry: entry.request_id in flying,
            lambda verified: decide(verified, refused(op_of(verified.body.request), TOO_LATE), ctx),
            ctx,
        )
    for victim, result in decided:
        ctx.executors.submit(publish_story(victim, result, ctx))


def _record(
    request: InstanceRequest, name: str, ctx: Context, *, now_ms: int, until_ms: int
) -> Recorded:
    body = Body(
        v=1, request_id=RequestId(name), host=HostName(ctx.policy.host), issuer=ISSUER,
        issued_at_ms=now_ms, not_after_ms=until_ms, trace=None, request=request,
    )  # fmt: skip
    verified = trusted(encode_call(encode_body(body)))
    return verified, accept(verified, ctx)[1]


def _patience_s(guest: Guest, ctx: Context) -> int:
    try:
        pool = ctx.host.records.pool(guest.tenant_id, guest.pool_id)
    except HostdError:
        return 0  # its sleep will report it
    return pool.runtime_policy.drain_timeout_seconds if pool else 0


def _status(guest: Guest, ctx: Context) -> str | None:
    try:
        doc = ctx.host.records.instance(ref_of(guest))
    except HostdError:
        return "unreadable"
    return doc.fields.status if doc else None


def _decided_later(guest: Guest, ctx: Context) -> str | None:
    """A successful request of the instance that is later than the drain's and not hostd's own."""
    for entry in ctx.ledger.requests.history(guest.instance_id, limit=LATER_REQUESTS):
        if entry.seq <= guest.seq:
            return None
        ended_well = entry.state != "accepted" and isinstance(entry.result, Done)
        if ended_well and not is_own(trusted(entry.call).body):
            return entry.request_id
    return None
