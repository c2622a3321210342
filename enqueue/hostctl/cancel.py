"""`hostctl cancel`: ends requests that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from enqueue.command_line import DONE, FAILED
from enqueue.hostctl.options import ALL, Target, asks_host, one_kind, prints
from enqueue.hostctl.output import Printer

if TYPE_CHECKING:
    from enqueue.client import HostClient


@click.command(short_help="cancel requests that wait")
@one_kind("all waiting requests")
@prints
@asks_host
def cancel(printer: Printer, target: Target, request_ids: tuple[str, ...], op: str | None) -> int:
    """Cancel requests that wait: those of these ids, or all of one kind."""
    with target.client() as client:
        ids = request_ids or _waiting(client, target.host, str(op))
        if not ids:
            printer.message(f"no waiting {op} on {target.host}")
        outcomes = []
        for request_id in ids:
            outcomes.append(client.cancel(request_id, host=target.host))
            printer.cancelled(request_id, target.host, outcomes[-1])
    return DONE if all(outcome == "cancelled" for outcome in outcomes) else FAILED


def _waiting(client: HostClient, host: str, op: str) -> list[str]:
    taken = client.jobs(host=host, states=["queued", "deferred"], limit=ALL)
    return [job.request_id for job in taken if job.op == op and job.status == "queued"]
