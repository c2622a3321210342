"""What happens to a request.  Read this file first.

    bytes -> verify -> ledger -> wait for turn -> locks -> plan -> engine(steps)
          -> ledger -> result -> metrics, events

`story` is all of it, as a generator: where it must wait it yields what it waits for, and
`worker.scheduling.executors` resumes it later, so a waiting request uses no thread.  Up to the
first `yield` it runs on the consumer's thread, inside the ledger transaction of its batch.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator

from enqueue.requests import Ping, describe, op_of
from enqueue.results import Result
from worker.errors import Conflict, HostdError, Rejected
from worker.ledger.entries import DeliveryKind, LedgerEntry
from worker.protocol.delivery import Delivery
from worker.protocol.events import say
from worker.protocol.results import refused, replayed
from worker.protocol.verification import Forged, VerifiedRequest, check_known, check_times, verify
from worker.request.attempt import attempt
from worker.request.cancel import CANCELLED, cancel, cancel_waiting, may_end
from worker.request.conclude import decide
from worker.request.context import Context
from worker.request.in_flight import InFlight
from worker.request.supersede import supersede
from worker.scheduling.suspects import is_suspect, too_dangerous
from worker.scheduling.turns import keys_of
from worker.scheduling.waits import Backoff, ReleaseKeys, ReplyNow, Turn, Wait

log = logging.getLogger("hostd")


def story(delivery: Delivery, ctx: Context) -> Iterator[Wait]:
    """The whole life of one delivery: from bytes to a published result."""
    try:
        verified = verify(delivery.data, id_=delivery.id, policy=ctx.policy)
    except Forged as error:
        yield from quarantine(delivery, refused("unknown", error), ctx)
        return
    if isinstance(verified.body.request, Ping):
        yield ReplyNow()
        publish(verified, delivery, answer_ping(verified, delivery, ctx), ctx, request_id=None)
        return
    kind, entry = accept(verified, ctx)
    if kind is DeliveryKind.UNPUBLISHED:  # another thread may be publishing its result: look again
        yield ReplyNow()
        ctx.publisher.flush_pending()
        kind, entry = accept(verified, ctx)
    match kind:
        case DeliveryKind.NEW | DeliveryKind.RERUN if delivery.canceled:
            yield from refuse(verified, entry, delivery, CANCELLED, ctx)
        case DeliveryKind.NEW:
            yield from first_run(verified, entry, delivery, ctx)
        case DeliveryKind.RERUN:
            yield from rerun(verified, entry, delivery, ctx)
        case DeliveryKind.IN_FLIGHT if delivery.canceled:
            for cancelled, result in cancel_waiting({delivery.id}, ctx):
                ctx.executors.submit(publish_story(cancelled, result, ctx))
        case DeliveryKind.IN_FLIGHT:
            log.info("%s is already in flight: this delivery is dropped", delivery.id)
        case DeliveryKind.UNPUBLISHED | DeliveryKind.REPLAY:
            yield from replay(verified, entry, delivery, ctx)
        case DeliveryKind.REUSED:
            yield from refuse_reused(verified, delivery, ctx)


def first_run(
    verified: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """Checks the request's times, then carries it out; one that is too late supersedes nothing."""
    try:
        check_known(verified.body, lost_before_ms=ctx.ledger.meta.lost_before_ms())
        check_times(verified.body, now_ms=ctx.clock.now_ms())
    except Rejected as error:
        yield from refuse(verified, entry, delivery, error, ctx)
    else:
        yield from fulfil(verified, entry, delivery, ctx)


def rerun(
    verified: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """Runs a failed request again at the caller's wish, unless that would undo a newer decision."""
    later = ctx.ledger.requests.overtaken(entry)
    if later is None:
        yield from fulfil(
            verified, ctx.ledger.requests.move_to_end(entry.request_id), delivery, ctx
        )
        return
    error = Conflict(
        "overtaken",
        f"request {later} of the same instance was accepted later and is decided",
        hint="send a new request if you still want this",
    )
    yield from refuse(verified, entry, delivery, error, ctx)


def fulfil(
    verified: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """From an accepted request to a published result; a restart resumes unfinished ones here."""
    for victim, result in supersede(verified, entry, ctx):
        ctx.executors.submit(publish_story(victim, result, ctx))
    keys = {**keys_of(verified.body.request), **ctx.suspects.keys(suspect=is_suspect(entry))}
    in_flight = InFlight(verified, entry, delivery)
    turn = Turn(keys, in_flight, interrupted=not may_end(entry, ctx))
    yield turn
    yield from wait_for_admission(turn, ctx)
    if ctx.publisher.mark_started(delivery) or not may_end(entry, ctx):
        result = yield from carry_out(verified, entry, delivery, turn, ctx)
    else:
        result = cancel(verified, ctx)
    publish(verified, delivery, result, ctx, request_id=entry.request_id)


def carry_out(
    verified: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, turn: Turn, ctx: Context
) -> Generator[Wait, None, Result]:
    """Attempts the request until it is decided, at most as often as the configuration allows.

    Extra keys (crash isolation) are released after the first attempt that follows a crash.
    """
    if (danger := too_dangerous(entry, verified.body.request)) is not None:
        ctx.suspects.tried()
        return decide(verified, refused(op_of(verified.body.request), danger), ctx)
    if not is_suspect(entry) and (delay_ms := entry.not_before_ms - ctx.clock.now_ms()) > 0:
        yield Backoff(ctx.clock.monotonic() + delay_ms / 1000)
    outcome = attempt(verified, entry, ctx)
    if is_suspect(entry):
        ctx.suspects.tried()
        own = keys_of(verified.body.request)
        yield ReleaseKeys(tuple(key for key in turn.keys if key not in own))
        turn = Turn(own, turn.in_flight)
    while isinstance(outcome, Backoff):
        entry = ctx.ledger.requests.entry(entry.request_id)
        if cancellable := may_end(entry, ctx):
            ctx.publisher.mark_postponed(delivery)
        yield outcome
        if cancellable:
            yield from wait_for_admission(turn, ctx)
        if not ctx.publisher.mark_started(delivery) and cancellable:
            return cancel(verified, ctx)
        outcome = attempt(verified, entry, ctx)
    return outcome


def wait_for_admission(turn: Turn, ctx: Context) -> Iterator[Wait]:
    """Waits, without the turn's keys, for as long as a drain bars the request.

    The drain may have begun while the request waited for its turn.
    """
    while ctx.executors.is_barred(turn):
        yield turn


def accept(verified: VerifiedRequest, ctx: Context) -> tuple[DeliveryKind, LedgerEntry]:
    """Records the request in the ledger; returns what this delivery of it is."""
    request = verified.body.request
    return ctx.ledger.requests.accept(
        verified.body.request_id,
        digest=verified.digest,
        call=verified.call,
        op=op_of(request),
        tenant_id=getattr(request, "tenant_id", None),
        instance_id=getattr(request, "instance_id", None),
        now_ms=ctx.clock.now_ms(),
    )


def publish(
    verified: VerifiedRequest,
    delivery: Delivery,
    result: Result,
    ctx: Context,
    *,
    request_id: str | None,
) -> None:
    """Publishes, counts and logs the result, which does not change any more.

    `request_id` is given for requests that the ledger holds as decided.
    """
    ctx.publisher.publish(delivery, result, request_id=request_id)
    ctx.metrics.ended(result)
    say(describe(verified.body.request), verified.body.request_id, result)


def publish_story(in_flight: InFlight, result: Result, ctx: Context) -> Iterator[Wait]:
    """Publishes a result that another request has decided."""
    yield ReplyNow()
    request_id = in_flight.entry.request_id
    publish(in_flight.verified, in_flight.delivery, result, ctx, request_id=request_id)


def answer_ping(verified: VerifiedRequest, delivery: Delivery, ctx: Context) -> Result:
    """The answer to a Ping, which is not recorded in the ledger because it changes nothing."""
    op = op_of(verified.body.request)
    if delivery.canceled:
        return refused(op, CANCELLED)
    try:
        check_times(verified.body, now_ms=ctx.clock.now_ms())
    except Rejected as error:
        return refused(op, error)
    return ctx.pong()


def quarantine(delivery: Delivery, result: Result, ctx: Context) -> Iterator[Wait]:
    """Puts a forged or malformed job aside with its reason; it never runs."""
    yield ReplyNow()
    ctx.publisher.quarantine(delivery, result)
    ctx.metrics.ended(result)
    say("quarantined", delivery.shown, result)


def replay(
    verified: VerifiedRequest, entry: LedgerEntry, delivery: Delivery, ctx: Context
) -> Iterator[Wait]:
    """Publishes the result of the first run again."""
    assert entry.result is not None  # noqa: S101  the ledger's states guarantee it
    yield ReplyNow()
    publish(verified, delivery, replayed(entry.result), ctx, request_id=entry.request_id)


def refuse(
    verified: VerifiedRequest,
    entry: LedgerEntry,
    delivery: Delivery,
    error: HostdError,
    ctx: Context,
) -> Iterator[Wait]:
    """Ends an accepted request without running it."""
    result = decide(verified, refused(op_of(verified.body.request), error), ctx)
    yield ReplyNow()
    publish(verified, delivery, result, ctx, request_id=entry.request_id)


def refuse_reused(verified: VerifiedRequest, delivery: Delivery, ctx: Context) -> Iterator[Wait]:
    """Refuses a request whose id names another request, which does not change."""
    error = Rejected(
        "request_id_reused",
        f"request id {verified.body.request_id} names another request on this host",
        hint="use a new request id",
    )
    yield ReplyNow()
    publish(verified, delivery, refused(op_of(verified.body.request), error), ctx, request_id=None)
