"""What the client and Redis say to each other: enqueue, wait, run again, look up."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from enqueue import keys
from enqueue.conversation.job import SealedRequest, answer, unseal
from enqueue.conversation.sansio import (
    LinkDown,
    Refusal,
    RoundTrip,
    Sleep,
    Talk,
    as_list,
    as_text,
    entries,
    reading,
    scripted,
)
from enqueue.conversation.scripts import (
    CANCEL,
    ENQUEUE,
    RETRY,
    Command,
    Stored,
    cancel_command,
    enqueue_command,
    fields_of,
    retry_command,
    stored,
)
from enqueue.envelope import canonical
from enqueue.errors import (
    NotRetryable,
    QueueFull,
    QueueUnavailable,
    RequestExpired,
    RequestIdReused,
    UnknownRequest,
    WaitTimeout,
)
from enqueue.requests import describe
from enqueue.results import Result
from enqueue.times import Clock

SLICE_S: Final = 2.0  # a waiter looks this often whether its job still exists
RECONNECT_S: Final = 0.2
ENDED: Final = frozenset({"finished", "failed", "canceled", "stopped"})

Cancellation = Literal["cancelled", "running", "ended", "unknown"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a request: its result is the first one in the stream after the id `after`.

    `result` is there already if the run had ended when it was asked for.
    """

    order: SealedRequest
    after: bytes
    result: Result | None = None

    def ended(self, result: Result) -> Run:
        """The same run with its result."""
        return replace(self, result=result)


def enqueueing(orders: Sequence[SealedRequest], *, limit: int, clock: Clock) -> Talk[list[Run]]:
    """The runs of orders for one host, stored and pushed in order if they were not there.

    Raises:
        QueueFull: none was stored.
        QueueUnavailable: Redis did not answer in time.
        RequestIdReused: an id names another request; the others are stored.
    """
    if not orders:
        return []
    host = orders[0].host
    command = enqueue_command(orders, limit=limit, now_ms=clock.now_ms())
    reply = yield from scripted(ENQUEUE, command)
    if _is_full(reply):
        raise QueueFull(_full(host, reply[1], limit))
    return [_run(order, stored(as_list(item))) for order, item in zip(orders, reply, strict=True)]


def retrying(run: Run, *, limit: int, clock: Clock) -> Talk[Run]:
    """The new run of a request that failed.

    Raises:
        NotRetryable: it did not fail.
        QueueFull, QueueUnavailable: as in `enqueueing`.
    """
    order = run.order
    token = secrets.token_hex(8)
    command = retry_command(order, token=token, limit=limit, now_ms=clock.now_ms())
    reply = yield from scripted(RETRY, command)
    if _is_full(reply):
        raise QueueFull(_full(order.host, reply[1], limit))
    if reply[0] == b"gone":
        (again,) = yield from enqueueing([order], limit=limit, clock=clock)
        return again
    if reply[0] == b"retried":
        return Run(order, reply[1])
    raise NotRetryable(
        f"request {order.request_id} on {order.host} is {as_text(reply[0])}; only a failed one "
        "can be run again"
    )


def attaching(host: str, request_id: str) -> Talk[Run]:
    """The latest run of a request that is stored already.

    Raises:
        UnknownRequest: Redis holds no such request.
        QueueUnavailable: Redis did not answer in time.
    """
    job_id = keys.job_id(host, request_id)
    # One transaction: a result between two reads would be waited for in vain.
    replies = yield from reading(
        ("MULTI",),
        ("HMGET", keys.job(job_id), "status", "data"),
        ("XREVRANGE", keys.results(job_id), "+", "-", "COUNT", 1),
        ("EXEC",),
    )
    (status, data), found = as_list(replies[-1])
    order = unseal(data) if data else None
    if order is None or order.job_id != job_id:
        raise UnknownRequest(
            f"no request {request_id} on {host}: it was never enqueued, or Redis has dropped it; "
            "enqueueing it again with this id is safe"
        )
    after, fields = found[0] if found else (b"0-0", None)
    entry = fields_of(fields) if as_text(status) in ENDED else None
    return _run(order, Stored(as_text(status), after, data, entry))


def waiting(run: Run, timeout_s: float, *, limit: int, clock: Clock) -> Talk[Result]:
    """The result of this run.

    A job that Redis has lost is stored again, byte for byte: the host knows what it has done.

    Raises:
        WaitTimeout: there is none after `timeout_s`.
        RequestExpired: Redis has lost the job and it is too late to send it again.
        RequestIdReused: Redis has lost the job, and its id now names another request.
        QueueUnavailable: Redis refuses to be read.
    """
    deadline = clock.monotonic() + timeout_s
    while run.result is None:
        left_s = max(0.0, deadline - clock.monotonic())
        try:
            entry, status = yield from _look(run, min(SLICE_S, left_s))
            if entry is not None:
                return answer(run.order, entry)
            seen = f"its job is {status or 'gone'}"
            if status is None:
                run = yield from _sending_again(run, limit=limit, clock=clock)
        except (LinkDown, QueueFull) as error:
            seen = str(error)
            yield Sleep(min(RECONNECT_S, left_s))
        if run.result is None and clock.monotonic() >= deadline:
            order = run.order
            raise WaitTimeout(
                f"request {order.request_id} on {order.host} has no result yet: {seen}; "
                "it goes on, waiting again is safe"
            )
    return run.result


def cancelling(host: str, request_id: str, *, clock: Clock) -> Talk[Cancellation]:
    """What came of cancelling a request: `cancelled` if it waited, and now will not be begun.

    What is `running` is let end; of `unknown` ones Redis holds nothing.

    Raises:
        QueueUnavailable: Redis did not answer in time.
    """
    reply = yield from scripted(CANCEL, cancel_command(host, request_id, now_ms=clock.now_ms()))
    match as_text(reply[0]):
        case "cancelled" | "unknown" as outcome:
            return outcome
        case status:
            return "ended" if status in ENDED else "running"


def status_of(order: SealedRequest) -> Talk[str | None]:
    """RQ's status of the job; None if Redis does not hold it."""
    (status,) = yield from reading(("HGET", keys.job(order.job_id), "status"))
    return None if status is None else as_text(status)


def _look(run: Run, block_s: float) -> Talk[tuple[dict[bytes, bytes] | None, str | None]]:
    job_id = run.order.job_id
    block_ms = int(block_s * 1000)
    block = ("BLOCK", block_ms) if block_ms else ()  # BLOCK 0 is for ever
    read: Command = (
        *("XREAD", "COUNT", 1, *block),
        *("STREAMS", keys.results(job_id), run.after),
    )
    status: Command = ("HGET", keys.job(job_id), "status")
    replies = yield RoundTrip((read, status), blocks_s=block_s)
    for reply in replies:
        if isinstance(reply, Refusal):
            raise QueueUnavailable(f"Redis refuses: {reply.text}", may_be_stored=True)
    found = entries(replies[0])
    entry = fields_of(found[0][1]) if found else None
    return entry, None if replies[1] is None else as_text(replies[1])


def _sending_again(run: Run, *, limit: int, clock: Clock) -> Talk[Run]:
    order = run.order
    if clock.now_ms() >= order.body.not_after_ms:
        raise RequestExpired(
            f"request {order.request_id} on {order.host} is gone from Redis and its not_after has "
            "passed; whether it was carried out, the host knows (hostctl events)"
        )
    try:
        (again,) = yield from enqueueing([order], limit=limit, clock=clock)
    except QueueUnavailable as error:
        raise LinkDown(str(error), sent=error.may_be_stored) from None
    return again


def _run(order: SealedRequest, found: Stored) -> Run:
    if found.data and found.data != order.data:
        other = unseal(found.data)
        if other is None or canonical(other.body) != canonical(order.body):
            raise RequestIdReused(
                f"request id {order.request_id} on {order.host} already names another request"
                + (f": {_told(other)}" if other else "")
            )
    run = Run(order, found.after)
    return run.ended(answer(order, found.entry)) if found.entry else run


def _told(order: SealedRequest) -> str:
    return f"{describe(order.body.request)}, issued by {order.body.issuer}"


def _is_full(reply: list[Any]) -> bool:
    return len(reply) == 2 and reply[0] == b"full"


def _full(host: str, depth: object, limit: int) -> str:
    return f"the queue of {host} holds {depth} requests and may hold {limit}; nothing was stored"
