"""Results that need no run: of a refused request, and of one that was answered before."""

from __future__ import annotations

import msgspec

from enqueue.results import Failed, Result
from worker.errors import HostdError


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
    """The result of an earlier run, marked as such."""
    return msgspec.structs.replace(result, replayed=True)
