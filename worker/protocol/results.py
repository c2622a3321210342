"""The words of results: from an outcome or an error to what the caller reads."""

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
    """The first run's result, marked as such."""
    return msgspec.structs.replace(result, replayed=True)
