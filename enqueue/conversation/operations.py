"""The conversations of a client: enqueue, retry, find, wait, cancel."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from enqueue import keys
from enqueue.conversation.job import SealedRequest, read_result, unseal
from enqueue.conversation.sansio import (
    Conversation,
    ErrorReply,
    LinkDown,
    RoundTrip,
    Sleep,
    as_list,
    as_text,
    entries,
    read,
    refused,
    run_script,
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
    parse_stored,
    retry_command,
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

SLICE_S: Final = 2.0  # a waiter checks this often whether its job still exists
RECONNECT_S: Final = 0.2
ENDED: Final = frozenset({"finished", "failed", "canceled", "stopped"})

Cancellation = Literal["cancelled", "running", "ended", "unknown"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a request: its result is the first one in the stream after the id `after`.

    `result` is set if the run had already ended when it was looked up.
    """

    sealed: SealedRequest
    after: bytes
    result: Result | None = None

    def ended(self, result: Result) -> Run:
        """The same run with its result."""
        return replace(self, result=result)

    def __str__(self) -> str:
        return f"request {self.sealed.request_id} on {self.sealed.host}"


def enqueue(
    requests: Sequence[SealedRequest], *, limit: int, clock: Clock
) -> Conversation[list[Run]]:
    """The runs of requests to one host; those that were not stored are stored and pushed in order.

    Raises:
        QueueFull: none was stored.
        QueueUnavailable: Redis did not answer in time.
        RequestIdReused: an id names another request; the others are stored.
    """
    if not requests:
        return []
    command = enqueue_command(requests, limit=limit, now_ms=clock.now_ms())
    reply = yield from run_script(ENQUEUE, command)
    _check_limit(reply, requests[0].host, limit)
    items = zip(requests, reply, strict=True)
    return [_run(sealed, parse_stored(as_list(item))) for sealed, item in items]


def retry(run: Run, *, limit: int, clock: Clock) -> Conversation[Run]:
    """The new run of a request that failed.

    Raises:
        NotRetryable: it did not fail.
        QueueFull, QueueUnavailable: as in `enqueue`.
    """
    sealed, token = run.sealed, secrets.token_hex(8)
    command = retry_command(sealed, token=token, limit=limit, now_ms=clock.now_ms())
    reply = yield from run_script(RETRY, command)
    _check_limit(reply, sealed.host, limit)
    if reply[0] == b"gone":
        (again,) = yield from enqueue([sealed], limit=limit, clock=clock)
        return again
    if reply[0] == b"retried":
        return Run(sealed, reply[1])
    raise NotRetryable(f"{run} is {as_text(reply[0])}; only a failed one can be run again")


def find(host: str, request_id: str) -> Conversation[Run]:
    """The latest run of a request that is already stored.

    Raises:
        UnknownRequest: Redis holds no such request.
        QueueUnavailable: Redis did not answer in time.
    """
    job_id = keys.job_id(host, request_id)
    # One transaction: `wait` would miss a result published between two reads.
    replies = yield from read(
        ("MULTI",),
        ("HMGET", keys.job(job_id), "status", "data"),
        ("XREVRANGE", keys.results(job_id), "+", "-", "COUNT", 1),
        ("EXEC",),
    )
    (status, data), found = as_list(replies[-1])
    sealed = unseal(data) if data else None
    if sealed is None or sealed.job_id != job_id:
        raise UnknownRequest(
            f"no request {request_id} on {host}: it was never enqueued, or Redis has dropped it; "
            "enqueueing it again with this id is safe"
        )
    after, fields = found[0] if found else (b"0-0", None)
    entry = fields_of(fields) if as_text(status) in ENDED else None
    return _run(sealed, Stored(as_text(status), after, data, entry))


def wait(run: Run, timeout_s: float, *, limit: int, clock: Clock) -> Conversation[Result]:
    """The result of this run.

    A job that Redis has lost is stored again with the same bytes: the host's ledger recognizes it.

    Raises:
        WaitTimeout: no result after `timeout_s`.
        RequestExpired: Redis has lost the job and it is too late to send it again.
        RequestIdReused: Redis has lost the job, and its id now names another request.
        QueueUnavailable: Redis refuses to be read.
    """
    deadline = clock.monotonic() + timeout_s
    while run.result is None:
        left_s = max(0.0, deadline - clock.monotonic())
        try:
            entry, status = yield from _poll(run, min(SLICE_S, left_s))
            if entry is not None:
                return read_result(run.sealed, entry)
            seen = f"its job is {status or 'gone'}"
            if status is None:
                run = yield from _enqueue_again(run, limit=limit, clock=clock)
        except (LinkDown, QueueFull) as error:
            seen = str(error)
            yield Sleep(min(RECONNECT_S, left_s))
        if run.result is None and clock.monotonic() >= deadline:
            raise WaitTimeout(
                f"{run} has no result yet: {seen}; the request continues, waiting again is safe"
            )
    return run.result


def cancel(host: str, request_id: str, *, clock: Clock) -> Conversation[Cancellation]:
    """`cancelled` if the request waited: it will not start.

    `running` and `ended` requests are not changed; Redis holds no `unknown` ones.

    Raises:
        QueueUnavailable: Redis did not answer in time.
    """
    reply = yield from run_script(CANCEL, cancel_command(host, request_id, now_ms=clock.now_ms()))
    match as_text(reply[0]):
        case "cancelled" | "unknown" as outcome:
            return outcome
        case status:
            return "ended" if status in ENDED else "running"


def status(sealed: SealedRequest) -> Conversation[str | None]:
    """RQ's status of the job; None if Redis does not hold it.

    Raises:
        QueueUnavailable: Redis did not answer in time.
    """
    (found,) = yield from read(("HGET", keys.job(sealed.job_id), "status"))
    return None if found is None else as_text(found)


def _poll(run: Run, block_s: float) -> Conversation[tuple[dict[bytes, bytes] | None, str | None]]:
    """The entry of the run's result, if published, and the job's status, if the job exists."""
    job_id = run.sealed.job_id
    block_ms = int(block_s * 1000)
    block = ("BLOCK", block_ms) if block_ms else ()  # BLOCK 0 never ends
    read_results: Command = (
        *("XREAD", "COUNT", 1, *block),
        *("STREAMS", keys.results(job_id), run.after),
    )
    read_status: Command = ("HGET", keys.job(job_id), "status")
    replies = yield RoundTrip((read_results, read_status), blocks_s=block_s)
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise refused(reply, may_be_stored=True)
    found = entries(replies[0])
    entry = fields_of(found[0][1]) if found else None
    return entry, None if replies[1] is None else as_text(replies[1])


def _enqueue_again(run: Run, *, limit: int, clock: Clock) -> Conversation[Run]:
    if clock.now_ms() >= run.sealed.body.not_after_ms:
        raise RequestExpired(
            f"{run} is gone from Redis and its not_after has passed; only the host knows whether "
            "it was executed (hostctl events)"
        )
    try:
        (again,) = yield from enqueue([run.sealed], limit=limit, clock=clock)
    except QueueUnavailable as error:
        raise LinkDown(str(error), sent=error.may_be_stored) from None
    return again


def _run(sealed: SealedRequest, found: Stored) -> Run:
    run = Run(sealed, found.after)
    if found.data and found.data != sealed.data:
        other = unseal(found.data)
        if other is None or canonical(other.body) != canonical(sealed.body):
            raise RequestIdReused(
                f"request id {sealed.request_id} on {sealed.host} already names another request"
                + (f": {_describe(other)}" if other else "")
            )
    return run.ended(read_result(sealed, found.entry)) if found.entry else run


def _describe(sealed: SealedRequest) -> str:
    return f"{describe(sealed.body.request)}, issued by {sealed.body.issuer}"


def _check_limit(reply: list[Any], host: str, limit: int) -> None:
    if len(reply) == 2 and reply[0] == b"full":
        raise QueueFull(
            f"the queue of {host} holds {reply[1]} requests, its limit is {limit}; "
            "nothing was stored"
        )
