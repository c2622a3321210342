"""Postpones a request whose attempt failed in a way that may pass."""

from __future__ import annotations

import logging

from enqueue.requests import op_of
from worker.errors import Transient
from worker.ledger.entries import LedgerEntry
from worker.protocol.verification import VerifiedRequest
from worker.request.context import Context
from worker.scheduling.waits import Backoff

log = logging.getLogger("hostd")


def back_off(
    verified: VerifiedRequest, entry: LedgerEntry, error: Transient, ctx: Context
) -> Backoff:
    """When to try again, also written to the ledger.

    The delay grows exponentially, with jitter: requests that failed together are not retried
    together.
    """
    retry = ctx.config.retry
    ceiling_s = min(retry.cap_s, retry.first_s * 2 ** (entry.attempts - 1))
    delay_s = ceiling_s * (0.5 + ctx.random() / 2)
    ctx.ledger.requests.back_off(entry.request_id, ctx.clock.now_ms() + int(delay_s * 1000))
    op = op_of(verified.body.request)
    ctx.metrics.retries.labels(op, error.code).inc()
    log.warning(
        "%s %s: attempt %d failed, next in %.1f s: %s",
        entry.request_id, op, entry.attempts, delay_s, error,
    )  # fmt: skip
    return Backoff(ctx.clock.monotonic() + delay_s)
