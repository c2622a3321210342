"""Cancelled requests: a waiting request ends at once; a running one finishes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import msgspec

from enqueue.keys import job_id
from enqueue.requests import op_of
from enqueue.results import Result
from worker.errors import Conflict
from worker.ledger.entries import Attempting, LedgerEntry
from worker.protocol.results import refused
from worker.protocol.verification import VerifiedRequest
from worker.request.conclude import decide
from worker.request.context import Context
from worker.request.in_flight import InFlight

CANCELLED: Final = Conflict(
    "cancelled",
    "it was cancelled while it waited",
    hint="send a new request, under a new id, if it is wanted after all",
)


def may_end(entry: LedgerEntry, ctx: Context) -> bool:
    """Whether the request may end here: no attempt is running, and none left anything behind.

    An attempt that hostd died in may have done half; one that failed has taken back what it began.
    """
    if entry.attempting is not Attempting.NO:
        return False
    return not (entry.begun and ctx.ledger.journal.begun_steps(entry.request_id))


def cancel(verified: VerifiedRequest, ctx: Context) -> Result:
    """Decides the request as cancelled, without another attempt; returns the result."""
    entry = ctx.ledger.requests.entry(verified.body.request_id)
    result = refused(op_of(verified.body.request), CANCELLED)
    return decide(verified, msgspec.structs.replace(result, attempts=entry.attempts), ctx)


def cancel_waiting(ids: Collection[str], ctx: Context) -> list[tuple[InFlight, Result]]:
    """Cancels the requests of these jobs that wait; returns them with their results."""
    host = ctx.policy.host
    return end_waiting(
        lambda entry: job_id(host, entry.request_id) in ids,
        lambda verified: cancel(verified, ctx),
        ctx,
    )


def end_waiting(
    wanted: Callable[[LedgerEntry], bool], end: Callable[[VerifiedRequest], Result], ctx: Context
) -> list[tuple[InFlight, Result]]:
    """Removes and decides, by `end`, the wanted requests that wait and left nothing behind."""
    with ctx.ledger.transaction():  # no attempt begins or ends within
        ids = {
            entry.request_id
            for entry in ctx.ledger.requests.unfinished()
            if wanted(entry) and may_end(entry, ctx)
        }
        victims = ctx.executors.withdraw(
            lambda one: isinstance(one, InFlight) and one.entry.request_id in ids
        )
        decided = []
        for victim in victims:
            assert isinstance(victim, InFlight)  # noqa: S101  the condition has checked
            decided.append((victim, end(victim.verified)))
        return decided
