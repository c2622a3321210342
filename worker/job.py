"""What happens to a request.  Read this file first.

    bytes -> verify -> ledger -> wait for turn -> locks -> plan -> engine(steps)
          -> ledger -> result -> metrics, events

`story` is all of it, as a generator: where it must wait it yields what it waits for, and
`worker.scheduling.executors` resumes it when that has come, so a request that waits costs no
thread.  Up to the first `yield` it runs on the consumer's thread, inside the ledger transaction of
its batch.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

from enqueue.requests import Ping, describe, op_of
from enqueue.results import Result
from worker.errors import Conflict, HostdError, Rejected
from worker.ledger.entries import LedgerEntry
from worker.ledger.ledger import DeliveryKind
from worker.protocol.delivery import Delivery
from worker.protocol.events import say
from worker.protocol.results import refused, replayed
from worker.protocol.verification import Forged, VerifiedRequest, check_known, check_times, verified
from worker.request.attempt import attempt
from worker.request.cancel import CANCELLED, cancel_waiting, cancelled, idle
from worker.request.conclude import decide
from worker.request.context import Context
from worker.request.supersede import InFlight, supersede
from worker.scheduling.suspects import is_suspect, too_dangerous
from worker.scheduling.turns import keys_of
from worker.scheduling.waits import Backoff, ReleaseKeys, ReplyNow, Turn, Wait

log = logging.getLogger("hostd")


def story(delivery: Delivery, ctx: Context) -> Iterator[Wait]:
    """From bytes to a told result: the whole life of one delivery."""
    try:
        order = verified(delivery.data, id_=delivery.id, policy=ctx.policy)
    except Forged as error:
        yield from quarantined(delivery, refused("unknown", error), ctx)
        return
    if isinstance(order.body.request, Ping):
        yield ReplyNow()
        publish(order, delivery, pong(order, delivery, ctx), ctx, request_id=None)
        return
    kind, entry = accepted(order, ctx)
    if kind is DeliveryKind.UNTOLD:  # perhaps being told at this moment, and asked for again
        yield ReplyNow()
        ctx.publisher.flush_pending()
        kind, entry = accepted(order, ctx)
    match kind:
        case DeliveryKind.NEW | DeliveryKind.RERUN if delivery.canceled:
            yield from refuse(order, entry, delivery, CANCELLED, ctx)
        case DeliveryKind.NEW:
            yield from first_run(order, entry, delivery, ctx)
        case DeliveryKind.RERUN:
            yield from rerun(order, entry, delivery, ctx)
        case DeliveryKind.IN_FLIGHT if delivery.canceled:
            for victim, result in cancel_waiting({delivery.id}, ctx):
                ctx.executors.submit(publish_story(victim, result, ctx))
        case DeliveryKind.IN_FLIGHT:
            log.info("%s is in flight already: this delivery is dropped", delivery.id)
        case DeliveryKind.UNTOLD | DeliveryKind.REPLAY:
            yield from replay(order, entry, delivery, ctx)
        case DeliveryKind.REUSED:
            yield from refuse_reused(order, delivery, ctx)


def pong(order: VerifiedRequest, delivery: Delivery, ctx: Context) -> Result:
    """The answer to a Ping, which needs no ledger: it changes nothing."""
    if delivery.canceled:
        return refused(op_of(order.body.request), CANCELLED)
    try:
        check_times(order.body, now_ms=ctx.clock.now_ms())
    except Rejected as error:
        return refused(op_of(order.body.request), error)
    return ctx.pong()


def first_run(
    order: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """A first run; one that comes too late supersedes nothing."""
    try:
        check_known(order.body, lost_before_ms=ctx.ledger.lost_before_ms())
        check_times(order.body, now_ms=ctx.clock.now_ms())
    except Rejected as error:
        yield from refuse(order, entry, delivery, error, ctx)
    else:
        yield from fulfil(order, entry, delivery, ctx)


def fulfil(
    order: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """From an accepted request to a told result; a restart takes unfinished ones up here."""
    request = order.body.request
    for victim, result in supersede(order, entry, ctx):
        ctx.executors.submit(publish_story(victim, result, ctx))
    more = ctx.suspects.keys(suspect=is_suspect(entry))
    subject, interrupted = InFlight(order, entry, delivery), not idle(entry, ctx)
    turn = Turn({**keys_of(request), **more}, subject, interrupted)
    yield turn
    yield from wait_for_admission(turn, ctx)
    if ctx.publisher.mark_started(delivery) or not idle(entry, ctx):
        result = yield from carried_out(order, entry, delivery, turn, ctx)
    else:
        result = cancelled(order, ctx)
    publish(order, delivery, result, ctx, request_id=entry.request_id)


def carried_out(
    order: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, turn: Turn, ctx: Context
) -> Generator[Wait, None, Result]:
    """As many attempts as it takes, and as the configuration allows.

    What `turn` has besides the request's own keys is held for a first attempt after a crash only.
    """
    if (danger := too_dangerous(entry, order.body.request)) is not None:
        ctx.suspects.tried()
        return decide(order, refused(op_of(order.body.request), danger), ctx)
    if not is_suspect(entry) and (delay_ms := entry.not_before_ms - ctx.clock.now_ms()) > 0:
        yield Backoff(ctx.clock.monotonic() + delay_ms / 1000)
    outcome = attempt(order, entry, ctx)
    if is_suspect(entry):
        ctx.suspects.tried()
        own = keys_of(order.body.request)
        yield ReleaseKeys(tuple(key for key in turn.keys if key not in own))
        turn = Turn(own, turn.in_flight)
    while isinstance(outcome, Backoff):
        entry = ctx.ledger.entry(entry.request_id)
        if may_end := idle(entry, ctx):
            ctx.publisher.mark_postponed(delivery)
        yield outcome
        if may_end:
            yield from wait_for_admission(turn, ctx)
        if not ctx.publisher.mark_started(delivery) and may_end:
            return cancelled(order, ctx)
        outcome = attempt(order, entry, ctx)
    return outcome


def wait_for_admission(turn: Turn, ctx: Context) -> Iterator[Wait]:
    """The host began to drain while this waited: it waits on, without its keys."""
    while ctx.executors.is_barred(turn):
        yield turn


def accepted(order: VerifiedRequest, ctx: Context) -> tuple[DeliveryKind, LedgerEntry]:
    """What this delivery is, on record."""
    request = order.body.request
    return ctx.ledger.accept(
        order.body.request_id,
        digest=order.digest,
        call=order.call,
        op=op_of(request),
        tenant_id=getattr(request, "tenant_id", None),
        instance_id=getattr(request, "instance_id", None),
        now_ms=ctx.clock.now_ms(),
    )


def publish(
    order: VerifiedRequest,
    delivery: Delivery,
    result: Result,
    ctx: Context,
    *,
    request_id: str | None,
) -> None:
    """The result goes out; it stays the same from here on."""
    ctx.publisher.publish(delivery, result, request_id=request_id)
    ctx.metrics.ended(result)
    say(describe(order.body.request), order.body.request_id, result)


def quarantined(delivery: Delivery, result: Result, ctx: Context) -> Iterator[Wait]:
    """A forged or malformed job is put aside with its reason; it never runs."""
    yield ReplyNow()
    ctx.publisher.quarantine(delivery, result)
    ctx.metrics.ended(result)
    say("quarantined", delivery.shown, result)


def replay(
    order: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """The first run's result, again."""
    assert entry.result is not None  # noqa: S101  the ledger's states guarantee it
    yield ReplyNow()
    publish(order, delivery, replayed(entry.result), ctx, request_id=entry.request_id)


def rerun(
    order: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """A run by hand, which must not undo a newer decision."""
    later = ctx.ledger.overtaken(entry)
    if later is None:
        yield from fulfil(order, ctx.ledger.renew(entry.request_id), delivery, ctx)
        return
    error = Conflict(
        "overtaken",
        f"request {later} of the same instance was accepted later and is decided",
        hint="send a new request if you still want this",
    )
    yield from refuse(order, entry, delivery, error, ctx)


def refuse(
    order: VerifiedRequest,
    entry: LedgerEntry,
    delivery: Delivery,
    error: HostdError,
    ctx: Context,
) -> Iterator[Wait]:
    """An accepted request ends without a run."""
    result = decide(order, refused(op_of(order.body.request), error), ctx)
    yield ReplyNow()
    publish(order, delivery, result, ctx, request_id=entry.request_id)


def refuse_reused(order: VerifiedRequest, delivery: Delivery, ctx: Context) -> Iterator[Wait]:
    """The request id names another request, which stays as it was."""
    error = Rejected(
        "request_id_reused",
        f"request id {order.body.request_id} names another request on this host",
        hint="use a new request id",
    )
    yield ReplyNow()
    publish(order, delivery, refused(op_of(order.body.request), error), ctx, request_id=None)


def publish_story(victim: InFlight, result: Result, ctx: Context) -> Iterator[Wait]:
    """A result that another request has decided goes out."""
    yield ReplyNow()
    publish(victim.order, victim.delivery, result, ctx, request_id=victim.entry.request_id)
