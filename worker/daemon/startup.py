"""What a starting hostd does before it takes new work: first the ledger, then Redis' list.

Decided results are published, accepted requests are resumed in the order of acceptance
(interrupted sleeps first), and only then comes what a killed worker had taken from the
queue without having accepted it.
"""

from __future__ import annotations

import logging
from typing import Final

from enqueue.requests import op_of
from enqueue.results import Done
from worker.job import fulfil
from worker.ledger.entries import LedgerEntry
from worker.plans.operations import OPERATIONS, operation_of
from worker.protocol.delivery import Delivery
from worker.protocol.verification import VerifiedRequest, is_own, trusted
from worker.request.context import Context
from worker.request.reconcile import reconcile_story
from worker.scheduling.unreconciled import Why

log = logging.getLogger("hostd")
_RECENT_SLEEPS: Final = 20  # the newest may have found the instance asleep


def publish_decided(ctx: Context) -> int:
    """Publishes results that are decided but may be unpublished; returns how many."""
    entries = ctx.ledger.requests.unpublished()
    for entry in entries:
        verified = trusted(entry.call)
        if entry.result is not None:
            delivery = Delivery.of(verified)
            ctx.publisher.publish(delivery, entry.result, request_id=entry.request_id)
    return len(entries)


def resume_unfinished(ctx: Context) -> int:
    """Resumes every accepted request; returns how many."""
    again = [(trusted(entry.call), entry) for entry in ctx.ledger.requests.unfinished()]
    # Requests that had begun had their turn, so nothing accepted earlier conflicts with them.
    # hostd's own requests came before what it had parked.  A sleep that had not begun keeps its
    # place: an earlier Start or Wake may have to make its guest first.
    again.sort(key=lambda p: (not p[1].begun, not _interrupted_sleep(*p), not is_own(p[0].body)))
    with ctx.executors.batch():
        for verified, entry in again:
            log.info("resuming %s %s", entry.request_id, op_of(verified.body.request))
            ctx.metrics.recovered.inc()
            ctx.executors.submit(fulfil(verified, entry, Delivery.of(verified), ctx))
    return len(again)


def retry_sleeps(ctx: Context) -> int:
    """Retries sleeps that failed with a transient error; returns how many.

    A host that is about to go down, or was full, is where sleeps fail; an image is worth more than
    the failure.  One that a newer decision has overtaken stays as it is.
    """
    policy = ctx.config.recover
    if not policy.retry_sleeps:
        return 0
    since_ms = ctx.clock.now_ms() - int(policy.retry_age_s * 1000)
    since_ms = max(since_ms, ctx.ledger.meta.lost_before_ms() or 0)  # later ones are unknown
    failed = [
        entry
        for operation in OPERATIONS.values()
        if operation.retried_at_start
        for entry in ctx.ledger.requests.failed(operation.name, "transient", since_ms=since_ms)
    ]
    again = [
        entry
        for entry in failed
        if entry.runs < policy.retry_runs
        and ctx.ledger.requests.overtaken(entry) is None
        and not is_own(trusted(entry.call).body)  # a drain retries its own
    ]
    with ctx.executors.batch():
        for entry in again:
            verified = trusted(entry.call)
            log.info("retrying %s %s", entry.request_id, op_of(verified.body.request))
            with ctx.ledger.transaction():  # one half alone would put it before later requests
                ctx.ledger.requests.reopen(entry.request_id)
                renewed = ctx.ledger.requests.move_to_end(entry.request_id)
            ctx.metrics.recovered.inc()
            ctx.executors.submit(fulfil(verified, renewed, Delivery.of(verified), ctx))
    return len(again)


def restore_image_size(ctx: Context) -> None:
    """Sets the metric of the sleep image made last to what an earlier hostd recorded."""
    for entry in ctx.ledger.requests.done("SleepInstance", limit=_RECENT_SLEEPS):
        if isinstance(entry.result, Done) and ctx.metrics.image_made(entry.result):
            return


def reconcile_all(ctx: Context, *, rebooted: bool) -> int:
    """Submits a story per instance, behind all requests, that reconciles it; returns how many.

    A request that comes first reconciles its instance itself.
    """
    refs = ctx.host.records.instances()
    ctx.unreconciled.add((ref.instance_id for ref in refs), Why(rebooted=rebooted))
    with ctx.executors.batch():
        for ref in refs:
            ctx.executors.submit(reconcile_story(ref, ctx), behind=True)
    return len(refs)


def _interrupted_sleep(verified: VerifiedRequest, entry: LedgerEntry) -> bool:
    return entry.begun and operation_of(verified.body.request).retried_at_start
