"""Submits each job from the queue as a story, or quarantines it."""

from __future__ import annotations

import logging

from enqueue.keys import job_id
from worker.errors import Broken, LedgerError
from worker.job import quarantine, story
from worker.protocol.delivery import Delivery
from worker.protocol.results import refused
from worker.protocol.verification import Forged
from worker.request.context import Context

log = logging.getLogger("hostd")


def submit(delivery: Delivery, ctx: Context) -> None:
    """Submits the job's story; whatever the job holds, the queue continues.

    Raises:
        LedgerError: without its ledger hostd must not continue.
    """
    try:
        ctx.executors.submit(story(delivery, ctx))
    except LedgerError:
        raise
    except Exception as error:
        # Otherwise the job would return at every start.
        log.exception("bug while reading %s", delivery.shown)
        bug = Broken("bug", f"{type(error).__name__}: {error}", hint="please report it")
        ctx.executors.submit(quarantine(delivery, refused("unknown", bug), ctx))


def refuse(delivery: Delivery, reason: str, ctx: Context) -> None:
    """Quarantines a job that cannot be read, unless it is in flight by the ledger."""
    if _is_in_flight(delivery, ctx):
        return
    error = Forged("unreadable", reason, hint="see docs/runbook.md")
    log.warning("quarantined %s: %s", delivery.shown, reason)
    ctx.publisher.quarantine(delivery, refused("unknown", error))


def _is_in_flight(delivery: Delivery, ctx: Context) -> bool:
    """Whether Redis lost a job that is in flight: the ledger has all that it needs."""
    request_id = delivery.id.removeprefix(job_id(ctx.config.host, ""))
    try:
        return ctx.ledger.requests.entry(request_id).state == "accepted"
    except (KeyError, UnicodeEncodeError):
        return False
