"""The demo's live table: each request, its outcome so far, and its steps with their times."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from enqueue.requests import Request, describe, op_of
from enqueue.results import Done, Failed, Pong, Result

SLOW_STEP_MS = 1.0


@dataclass(slots=True)
class Row:
    """One line: a request, or a note about what happened between them."""

    what: str
    began: float = field(default_factory=time.monotonic)
    result: Result | None = None
    note: bool = False


class View:
    """A live table on a terminal; plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[Row] = []
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=8)

    def __enter__(self) -> View:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def request(self, request: Request) -> Row:
        """Adds a row for a request."""
        row = Row(describe(request) if op_of(request) != "Ping" else "Ping")
        self._rows.append(row)
        return row

    def ended(self, row: Row, result: Result) -> None:
        """Shows the row's result."""
        row.result = result
        if not self._console.is_terminal:
            self._console.print(f"{row.what}: ", outcome(row), "  ", steps(result), sep="")

    def note(self, text: str) -> None:
        """Shows a line between requests."""
        self._rows.append(Row(text, note=True))
        if not self._console.is_terminal:
            self._console.print(f"-- {text}")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("request", no_wrap=True)
        table.add_column("outcome", no_wrap=True)
        table.add_column("steps (ms)", overflow="fold")
        for row in self._rows:
            if row.note:
                table.add_row(Text(f"  {row.what}", style="yellow"), "", "")
            else:
                table.add_row(row.what, outcome(row), steps(row.result) if row.result else "")
        return table


def outcome(row: Row) -> Text:
    """A request's outcome so far, in a few words."""
    match row.result:
        case None:
            return Text(f"... {time.monotonic() - row.began:.1f} s", style="dim")
        case Done() as done:
            word = done.state if done.changed else f"{done.state}, unchanged"
            again = f", attempt {done.attempts}" if done.attempts > 1 else ""
            return Text(f"{word} in {done.took_ms:.0f} ms{again}", style="green")
        case Pong() as pong:
            return Text(f"pong from {pong.host}, Firecracker {pong.firecracker_version}", "green")
        case Failed() as failed:
            return Text(str(failed), style="red")


def steps(result: Result) -> str:
    """The steps that changed something and took noticeable time."""
    if isinstance(result, Pong):
        return ""
    applied = [step for step in result.steps if step.applied]
    slow = [f"{step.name} {step.ms:.0f}" for step in applied if step.ms >= SLOW_STEP_MS]
    quick = len(applied) - len(slow)
    return ", ".join(slow) + (f" + {quick} under 1 ms" if quick else "")
