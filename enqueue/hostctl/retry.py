"""`hostctl retry`: runs failed requests again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enqueue.command_line import DONE, FAILED
from enqueue.errors import NotRetryable, QueueFull, UnknownRequest
from enqueue.hostctl.options import ALL, Target, Waiting, asks_host, one_kind, prints, waits
from enqueue.hostctl.output import Printer
from enqueue.hostctl.wait import is_done
from enqueue.times import format_rq, parse_time

if TYPE_CHECKING:
    from enqueue.client import HostClient, Ticket


@click.command(short_help="run failed requests again")
@one_kind("all failed requests")
@click.option(
    "--since", metavar="T", type=parse_time,
    help="With --op: those that failed since then (2026-01-31T04:00:00Z, or an age: 90m, 12h, 3d).",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show which, and change nothing.")
@prints
@asks_host
@waits
def retry(
    printer: Printer,
    target: Target,
    waiting: Waiting,
    request_ids: tuple[str, ...],
    op: str | None,
    since: int | None,
    dry_run: bool,
) -> int:
    """Run failed requests again: those of these ids, or all of one kind."""
    if request_ids and since:
        raise click.UsageError("--since goes with --op; given ids are retried whenever they failed")
    with target.client() as client:
        ids = request_ids or _failed(client, target.host, str(op), since or 0)
        if not ids:
            printer.message(f"no failed {op} on {target.host}")
        if dry_run:
            for request_id in ids:
                printer.would_retry(request_id, target.host)
            return DONE
        tickets = [_retried(id_, client, target, waiting, printer) for id_ in ids]
        outcomes = [ticket is not None for ticket in tickets]
        if waiting.wait:
            outcomes += [is_done(one, waiting.timeout_s, printer) for one in tickets if one]
    return DONE if all(outcomes) else FAILED


def _failed(client: HostClient, host: str, op: str, since_ms: int) -> list[str]:
    since = format_rq(since_ms)
    failed = client.jobs(host=host, states=["failed"], limit=ALL)
    return [job.request_id for job in failed if job.op == op and job.ended_at >= since]


def _retried(
    request_id: str, client: HostClient, target: Target, waiting: Waiting, printer: Printer
) -> Ticket | None:
    try:
        ticket = client.ticket(request_id, host=target.host).retry()
    except (NotRetryable, UnknownRequest, QueueFull) as error:
        printer.error(error)
        return None
    if not waiting.wait:
        printer.enqueued(ticket)
    return ticket
