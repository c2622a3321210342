"""hostctl: asks a host to do things, and shows what it does."""

from __future__ import annotations

import sys

import click

from enqueue.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine
from enqueue.errors import BadRequest, EnqueueError, QueueUnavailable, WaitTimeout
from enqueue.hostctl import ask, cancel, retry, setup, show, wait
from enqueue.hostctl.options import printer_of

__all__ = ["DONE", "FAILED", "UNREACHABLE", "USAGE", "main"]


def _report(error: Exception, ctx: click.Context) -> int:
    printer_of(ctx).error(error)
    match error:
        case QueueUnavailable() | WaitTimeout():
            return UNREACHABLE
        case BadRequest() | click.UsageError():
            return USAGE
        case _:
            return FAILED


@click.group(
    "hostctl", cls=CommandLine, errors=(EnqueueError, click.UsageError), report=_report,
    short_help="ask a host to do things, and show what it does",
)  # fmt: skip
@click.pass_context
def main(ctx: click.Context) -> None:
    """Ask a host to do things, and show what it does.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 Redis or the host did not answer in time.
    """
    printer_of(ctx)  # before a command's own context takes over what is there


for command in (
    *ask.commands(),
    wait.wait, retry.retry, cancel.cancel, show.jobs, show.events, setup.keygen, setup.acl,
):  # fmt: skip
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
