"""`hostctl jobs` and `hostctl events`: a host's requests, and what happened on it."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import click

from enqueue.hostctl.options import Target, asks_host, prints
from enqueue.hostctl.output import Printer
from enqueue.keys import JOB_STATES, PENDING

FOLLOW_S: Final = 5.0


def _states(command: Callable[..., Any]) -> Callable[..., Any]:
    flags = [click.option(f"--{state}", is_flag=True, help=f"{state} ones") for state in JOB_STATES]
    return reduce(lambda wrapped, flag: flag(wrapped), reversed(flags), command)


@click.command(short_help="list a host's requests")
@_states
@click.option(
    "--limit", metavar="N", type=int, default=100, help="At most so many of each (default: 100)."
)
@prints
@asks_host
def jobs(printer: Printer, target: Target, limit: int, **chosen: bool) -> None:
    """List a host's requests; without a state: those that are queued, wait, run or have failed."""
    states = [state for state in JOB_STATES if chosen[state]] or PENDING
    with target.client() as client:
        printer.jobs(client.jobs(host=target.host, states=states, limit=limit))


@click.command(short_help="show a host's events")
@click.option("--follow", is_flag=True, help="Continue until interrupted.")
@click.option("--since", metavar="ID", default="0", help="Those after this one, or after `now`.")
@prints
@asks_host
def events(printer: Printer, target: Target, follow: bool, since: str) -> None:
    """Show the events of a host, the oldest first."""
    with target.client() as client:
        after = since
        if since == "now":
            after = next((one.id for one in client.events(host=target.host, after="now")), "0")
        while True:
            wait_s = FOLLOW_S if follow else 0.0
            found = client.events(host=target.host, after=after, wait_s=wait_s)
            for event in found:
                printer.event(event)
                after = event.id
            if not found and not follow:
                return
