"""How `hostd drain` and `hostd undrain` are called and what they print."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import click

from enqueue.command_line import DONE, FAILED
from enqueue.times import parse_duration
from worker.commands.options import as_json, configured
from worker.commands.output import print_json, show, show_facts
from worker.config import Config

BAR: Final = 20  # columns of the bar of progress


@click.command(short_help="take no new work, and put away what runs; again: another deadline")
@click.option(
    "--deadline", metavar="D", type=parse_duration, help="For the whole drain: 90s, 15m, 2h."
)
@click.option("--status", is_flag=True, help="Show how far it has come.")
@click.option(
    "--strategy", type=click.Choice(["sleep", "stop"]), default="sleep",
    help="What to do with each instance (default: sleep).",
)  # fmt: skip
@as_json
@configured
def drain(
    config: Config, deadline: float | None, status: bool, strategy: Any, as_json: bool
) -> int:
    """Take no new work, and put away what runs; given again, it sets another deadline."""
    from worker.commands import drain as drains
    from worker.commands.host_view import open_host
    from worker.drain import store

    if status == (deadline is not None):
        raise click.UsageError("give either --deadline or --status")
    with open_host(config) as view:
        if deadline is not None:
            store.drain(view.ledger, strategy, deadline_s=deadline)
            _follow(view, quiet=as_json)
        facts = drains.report(view)
    _show(facts, as_json=as_json)
    return DONE if status or not facts["running"] else FAILED


@click.command(short_help="bring back what a drain has put away")
@as_json
@configured
def undrain(config: Config, as_json: bool) -> int:
    """End the drain, and bring back what it has put away."""
    from worker.commands import drain as drains
    from worker.commands.host_view import open_host
    from worker.drain import store

    with open_host(config) as view:
        store.undrain(view.ledger)
        _follow(view, quiet=as_json)
        facts = drains.report(view)
    _show(facts, as_json=as_json)
    return DONE if drains.all_came_back(facts) else FAILED


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([facts])
        return
    lines = {key: value for key, value in facts.items() if key != "instances"}
    show_facts(lines | {"running": ", ".join(facts["running"]) or "nothing"}, as_json=False)
    if facts["instances"]:
        show(facts["instances"], as_json=False)


# ------------------------------------------------------------ progress


class _Watcher(Protocol):
    def __call__(self, done: int, total: int, news: Iterable[str]) -> None: ...


def _follow(view: Any, *, quiet: bool) -> None:
    from worker.commands import drain as drains

    shown: dict[str, str] = {}
    with _watcher(quiet=quiet) as watch, _interruptible():
        for known in drains.followed(view):
            back = known.phase in ("undraining", "undrained")
            now = {
                row["instance"]: str(row.get("back" if back else "outcome", "under_way"))
                for row in drains.rows(known, view)
            }
            open_ones = sum(word in ("waits", "under_way") for word in now.values())
            news = [f"{name}: {word}" for name, word in now.items() if shown.get(name) != word]
            watch(len(now) - open_ones, len(now), news)
            shown = now


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("hostd continues the drain; `hostd drain --status` shows it", file=sys.stderr)
        raise


@contextmanager
def _watcher(*, quiet: bool) -> Iterator[_Watcher]:
    """A line of progress below the news on a terminal, the news elsewhere, nothing if quiet."""
    if quiet:
        yield lambda done, total, news: None
    elif not sys.stdout.isatty():
        yield lambda done, total, news: print(*news, sep="\n", end="\n" if news else "", flush=True)
    else:
        began = time.monotonic()

        def watch(done: int, total: int, news: Iterable[str]) -> None:
            bar = "#" * (BAR * done // max(total, 1))
            line = f"[{bar:<{BAR}}] {done}/{total} instances"
            above = "".join(f"{one}\n" for one in news)
            took_s = time.monotonic() - began
            print(f"\r\x1b[K{above}{line}, {took_s:.0f} s", end="", flush=True)

        try:
            yield watch
        finally:
            print()
