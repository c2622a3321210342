"""How hostctl writes: lines and tables for a person, one JSON document a line for a program."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from enqueue.command_line import usage
from enqueue.requests import describe
from enqueue.results import Done, Failed, Pong, Result
from enqueue.tables import print_table

if TYPE_CHECKING:  # they bring redis and cryptography, which `--help` and completion do not need
    from enqueue.client import Ticket
    from enqueue.conversation.listing import Event, JobLine
    from enqueue.conversation.operations import Cancellation

_CANCELLATIONS: Final[dict[Cancellation, str]] = {
    "cancelled": "cancelled",
    "running": "is running, not cancelled",
    "ended": "has ended already",
    "unknown": "is unknown",
}


class Printer:
    """Writes results to stdout, notes and progress to stderr."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @property
    def shows_progress(self) -> bool:
        """Whether a person is watching."""
        return not self.as_json and sys.stderr.isatty()

    def document(self, value: object, line: str) -> None:
        """One outcome, as JSON or in words."""
        print(msgspec.json.encode(value).decode() if self.as_json else line, flush=True)

    def error(self, error: Exception) -> None:
        """An error: one line on stderr, or a JSON document on stdout."""
        if self.as_json:
            name, words = type(error).__name__, str(error)
            self.document({"kind": "error", "error": name, "message": words}, "")
        else:
            self.message(
                usage(error) if isinstance(error, click.UsageError) else f"hostctl: {error}"
            )

    def message(self, line: str) -> None:
        """A line for a person."""
        print(line, file=sys.stderr, flush=True)

    def enqueued(self, ticket: Ticket) -> None:
        """The request is on the queue."""
        facts = _facts(ticket)
        words = f"{facts['description']} on {ticket.host}: request {ticket.request_id} is queued"
        self.document({"kind": "queued"} | facts, words)

    def would_retry(self, request_id: str, host: str) -> None:
        """With `--dry-run`: the request would be retried."""
        self.document(
            {"kind": "retry", "dry_run": True, "request_id": request_id, "host": host},
            f"request {request_id} on {host} would be retried",
        )

    def cancelled(self, request_id: str, host: str, outcome: Cancellation) -> None:
        """The outcome of cancelling a request."""
        self.document(
            {"kind": "cancel", "outcome": outcome, "request_id": request_id, "host": host},
            f"request {request_id} on {host}: {_CANCELLATIONS[outcome]}",
        )

    def result(self, ticket: Ticket, result: Result) -> None:
        """The request has ended."""
        facts = _facts(ticket)
        words = f"{facts['description']} on {ticket.host}: {_words(result)}"
        self.document(msgspec.to_builtins(result) | facts, words)

    def jobs(self, lines: Sequence[JobLine]) -> None:
        """A table, or a document for each."""
        if self.as_json:
            for line in lines:
                self.document(line, "")
        elif not lines:
            self.message("no such requests")
        else:
            _table(lines)

    def event(self, event: Event) -> None:
        """One event: its JSON, after its id."""
        self.document(event, f"{event.id} {msgspec.json.encode(event.event).decode()}")

    def progress(self, ticket: Ticket, waited_s: float) -> None:
        """A line that the next one overwrites."""
        line = f"waiting for {describe(ticket.request)} on {ticket.host}: {waited_s:.0f} s"
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def end_progress(self) -> None:
        """Clears the progress line."""
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _facts(ticket: Ticket) -> dict[str, Any]:
    return {
        "request_id": ticket.request_id,
        "host": ticket.host,
        "job_id": ticket.job_id,
        "description": describe(ticket.request),
    }


def _words(result: Result) -> str:
    match result:
        case Done():
            change = "" if result.changed else ", unchanged"
            return f"{result.state}{change} ({result.took_ms:.0f} ms)"
        case Pong():
            return (
                f"pong from hostd {result.version}, up {result.uptime_s:.0f} s, "
                f"{result.firecracker_version}, {result.queue_depth} waiting"
            )
        case Failed():
            return f"failed: {result}"


def _table(lines: Sequence[JobLine]) -> None:
    titles = ("REQUEST", "STATUS", "ENQUEUED", "WHAT", "ISSUER", "OUTCOME")
    rows = [
        (
            *(line.request_id, line.status, line.enqueued_at[:19]),
            *(line.description, line.issuer, line.outcome),
        )
        for line in lines
    ]
    print_table(titles, rows)
