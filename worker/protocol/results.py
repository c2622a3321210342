"""The words of results: from an outcome or an error to what the caller reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enqueue.requests import Request, op_of
from enqueue.results import Done, Failed, Result
from worker.errors import HostdError
from worker.ledger.entries import LedgerEntry
from worker.steps.engine import Outcome


def refused(op: str, error: HostdError) -> Failed:
    """The result of a request that never began."""
    return Failed(
        op=op,
        code=error.code,
        failure_class=error.failure_class,
        message=str(error),
        hint=error.hint,
        attempts=0,
    )


def replayed(result: Result) -> Result:
    """The first run's result, marked as such."""
    return msgspec.structs.replace(result, replayed=True)


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
    """The result of an ended request; `changed` by any of its attempts."""
    began_ms = entry.began_at_ms or now_ms
    common: Mapping[str, Any] = {
        "op": op_of(request),
        "attempts": entry.attempts,
        # Floats, as once decoded: a result has the same bytes however often it is told.
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
