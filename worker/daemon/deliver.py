"""What becomes of a job as it comes from the queue: a story, or a refusal."""

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
    """The job's story has begun; whatever it holds, the queue goes on.

    Raises:
        LedgerError: without its ledger hostd must not go on.
    """
    try:
        ctx.executors.submit(story(delivery, ctx))
    except LedgerError:
        raise
    except Exception as error:
        # It would come back at every start.
        log.exception("bug while reading %s", delivery.shown)
        bug = Broken("bug", f"{type(error).__name__}: {error}", hint="please report it")
        ctx.executors.submit(quarantine(delivery, refused("unknown", bug), ctx))


def refuse(delivery: Delivery, reason: str, ctx: Context) -> None:
    """A job that cannot even be read is quarantined, unless the ledger knows what it was."""
    if _goes_on(delivery, ctx):
        return
    error = Forged("unreadable", reason, hint="see docs/runbook.md")
    log.warning("quarantined %s: %s", delivery.shown, reason)
    ctx.publisher.quarantine(delivery, refused("unknown", error))


def _goes_on(delivery: Delivery, ctx: Context) -> bool:
    """Whether Redis has lost a job that is in flight: the ledger has all that it needs."""
    request_id = delivery.id.removeprefix(job_id(ctx.config.host, ""))
    try:
        return ctx.ledger.requests.entry(request_id).state == "accepted"
    except (KeyError, UnicodeEncodeError):
        return False
