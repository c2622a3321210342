"""What a starting hostd does before it takes new work: the ledger first, then Redis' list.

Decided results are told, accepted requests are taken up again in the order of acceptance
(interrupted sleeps first), and only then comes what a killed worker had taken from the
queue without having accepted it.
"""

from __future__ import annotations

import logging

from enqueue.keys import job_id
from enqueue.requests import SleepInstance, op_of
from worker.context import Context, Delivery
from worker.job import fulfil
from worker.ledger import Entry
from worker.verify import Order, trusted

log = logging.getLogger("hostd")


def tell_decided(ctx: Context) -> int:
    """Publishes again what was decided but may not have been told; returns how many."""
    entries = ctx.ledger.untold()
    for entry in entries:
        order = trusted(entry.call)
        if entry.result is not None:
            delivery = _delivery(order, entry)
            ctx.publish.tell(delivery, entry.result, request_id=entry.request_id)
    return len(entries)


def take_up_unfinished(ctx: Context) -> int:
    """Goes on with every accepted request; returns how many."""
    again = [(trusted(entry.call), entry) for entry in ctx.ledger.unfinished()]
    # One that had begun held its turn: nothing before it can be in its way.
    again.sort(key=lambda pair: not (_is_sleep(pair[0]) and pair[1].attempts))
    with ctx.executors.batch():
        for order, entry in again:
            log.info("taking up %s %s again", entry.request_id, op_of(order.body.request))
            ctx.metrics.recovered.inc()
            ctx.executors.submit(fulfil(order, entry, _delivery(order, entry), ctx))
    return len(again)


def _is_sleep(order: Order) -> bool:
    return isinstance(order.body.request, SleepInstance)


def _delivery(order: Order, entry: Entry) -> Delivery:
    return Delivery(job_id(order.body.host, entry.request_id), entry.call)
