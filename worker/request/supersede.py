"""Ends waiting requests that a newer request of the same instance makes pointless."""

from __future__ import annotations

from enqueue.requests import op_of
from enqueue.results import Result
from worker.errors import Conflict
from worker.ledger.entries import LedgerEntry
from worker.plans.operations import operation_of
from worker.protocol.results import refused
from worker.protocol.verification import VerifiedRequest, is_own
from worker.request.conclude import decide
from worker.request.context import Context
from worker.request.in_flight import InFlight


def supersede(
    verified: VerifiedRequest, entry: LedgerEntry, ctx: Context
) -> list[tuple[InFlight, Result]]:
    """Removes and decides the requests that `verified` supersedes; returns them with their results.

    Requests that run, or were accepted later, are never superseded.  hostd's own requests (drain)
    are temporary and supersede nothing.
    """
    request = verified.body.request
    ops = () if is_own(verified.body) else operation_of(request).supersedes
    if not ops:
        return []

    def pointless(other: object) -> bool:
        if not isinstance(other, InFlight) or other.entry.seq >= entry.seq:
            return False
        target = other.verified.body.request
        same = getattr(target, "instance_id", None) == getattr(request, "instance_id", "")
        return same and isinstance(target, ops)

    error = Conflict(
        "superseded", f"a later {op_of(request)} of the same instance made it pointless"
    )
    decided = []
    for victim in ctx.executors.withdraw(pointless):
        assert isinstance(victim, InFlight)  # noqa: S101  `pointless` has checked
        result = refused(op_of(victim.verified.body.request), error)
        decided.append((victim, decide(victim.verified, result, ctx)))
    return decided
