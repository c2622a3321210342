"""`hostctl wait`: waits for a result and shows it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from enqueue.command_line import DONE, FAILED
from enqueue.errors import WaitTimeout
from enqueue.hostctl.options import Target, Waiting, asks_host, prints, waits
from enqueue.hostctl.output import Printer
from enqueue.results import Failed, Result

if TYPE_CHECKING:
    from enqueue.client import Ticket

PROGRESS_S: Final = 0.5


@click.command(short_help="wait for a request")
@click.argument("request_id", metavar="REQUEST_ID")
@prints
@asks_host
@waits
def wait(printer: Printer, target: Target, waiting: Waiting, request_id: str) -> int:
    """Wait for the result of a request that was enqueued earlier, and show it."""
    with target.client() as client:
        ticket = client.ticket(request_id, host=target.host)
        return DONE if is_done(ticket, waiting.timeout_s, printer) else FAILED


def is_done(ticket: Ticket, timeout_s: float, printer: Printer) -> bool:
    """Whether the request succeeds; waits for its result and shows it.

    Raises:
        EnqueueError: there is no result.
    """
    try:
        result = _result(ticket, timeout_s, printer)
    except KeyboardInterrupt:
        printer.message(
            f"request {ticket.request_id} goes on; to wait for it: "
            f"hostctl wait {ticket.request_id} --host {ticket.host}"
        )
        raise
    printer.result(ticket, result)
    return not isinstance(result, Failed)


def _result(ticket: Ticket, timeout_s: float, printer: Printer) -> Result:
    if not printer.shows_progress:
        return ticket.wait(timeout_s)
    began = time.monotonic()
    while True:
        waited_s = time.monotonic() - began
        printer.progress(ticket, waited_s)
        try:
            return ticket.wait(min(PROGRESS_S, timeout_s - waited_s))
        except WaitTimeout:
            if time.monotonic() - began >= timeout_s:
                raise
        finally:
            printer.end_progress()
