"""`hostctl start`, `stop`, `sleep` ...: one command for each operation."""

from __future__ import annotations

from typing import Any

import click

from enqueue.command_line import DONE, FAILED
from enqueue.hostctl.options import Target, Waiting, asks_host, prints, signs, waits
from enqueue.hostctl.output import Printer
from enqueue.operations import command_of, request_of
from enqueue.requests import REQUEST_TYPES, Ping, Request


def commands() -> list[click.Command]:
    """A command for each operation."""
    return [_command(kind) for kind in REQUEST_TYPES.values()]


def _command(kind: type[Request]) -> click.Command:
    @prints
    @signs
    @asks_host
    @waits
    @click.option("--request-id", metavar="ID", help="Makes asking twice safe.")
    @click.option(
        "--not-after", metavar="SECONDS", type=float, help="Do not begin later (default: 24 h)."
    )
    def ask(
        printer: Printer,
        target: Target,
        waiting: Waiting,
        request_id: str | None,
        not_after: float | None,
        **values: Any,
    ) -> int:
        from enqueue.hostctl.wait import is_done

        with target.client() as client:
            ticket = client.enqueue(
                request_of(kind, values), host=target.host, request_id=request_id,
                not_after=not_after,
            )  # fmt: skip
            if waiting.wait or kind is Ping:
                return DONE if is_done(ticket, waiting.timeout_s, printer) else FAILED
            printer.enqueued(ticket)
        return DONE

    return command_of(kind, ask)
