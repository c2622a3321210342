"""How `hostd drain` and `hostd undrain` are called and what they print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from enqueue.times import parse_duration
from worker.commands.arguments import readable
from worker.commands.output import print_json, show, show_facts
from worker.config import load


def add_to(commands: Any) -> None:
    """Adds the commands to a parser's sub-commands."""
    drain = commands.add_parser(
        "drain", help="take no new work, and put away what runs; again: another deadline"
    )
    what = drain.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--deadline", type=readable(parse_duration), metavar="D", help="for all of it: 90s, 15m, 2h"
    )
    what.add_argument("--status", action="store_true", help="show how far it has come")
    drain.add_argument("--strategy", choices=("sleep", "stop"), default="sleep")
    drain.set_defaults(command=_drain)
    undrain = commands.add_parser("undrain", help="bring back what a drain has put away")
    undrain.set_defaults(command=_undrain)
    for parser in (drain, undrain):
        parser.add_argument("--json", action="store_true", help="for programs")


def _drain(arguments: argparse.Namespace) -> int:
    from worker.commands import drain as drains  # other commands start faster without it
    from worker.commands.host_view import open_host
    from worker.drain import store

    with open_host(load(arguments.config)) as view:
        if not arguments.status:
            store.drain(view.ledger, arguments.strategy, deadline_s=arguments.deadline)
            _follow(view, quiet=arguments.json)
        facts = drains.report(view)
    _show(facts, as_json=arguments.json)
    return 0 if arguments.status or not facts["running"] else 1


def _undrain(arguments: argparse.Namespace) -> int:
    from worker.commands import drain as drains  # as above
    from worker.commands.host_view import open_host
    from worker.drain import store

    with open_host(load(arguments.config)) as view:
        store.undrain(view.ledger)
        _follow(view, quiet=arguments.json)
        facts = drains.report(view)
    _show(facts, as_json=arguments.json)
    return 0 if drains.all_came_back(facts) else 1


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([facts])
        return
    lines = {key: value for key, value in facts.items() if key != "instances"}
    show_facts(lines | {"running": ", ".join(facts["running"]) or "nothing"}, as_json=False)
    if facts["instances"]:
        show(facts["instances"], as_json=False)


# ------------------------------------------------------------ while it goes


class _Watcher(Protocol):
    def __call__(self, done: int, total: int, news: Iterable[str]) -> None: ...


def _follow(view: Any, *, quiet: bool) -> None:
    from worker.commands import drain as drains

    told: dict[str, str] = {}
    with _watcher(quiet=quiet) as watch, _going_on():
        for known in drains.followed(view):
            back = known.phase in ("undraining", "undrained")
            now = {
                row["instance"]: str(row.get("back" if back else "outcome", "under_way"))
                for row in drains.rows(known, view)
            }
            open_ones = sum(word in ("waits", "under_way") for word in now.values())
            news = [f"{name}: {word}" for name, word in now.items() if told.get(name) != word]
            watch(len(now) - open_ones, len(now), news)
            told = now


@contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print("hostd goes on without you; `hostd drain --status` shows it", file=sys.stderr)
        raise


@contextmanager
def _watcher(*, quiet: bool) -> Iterator[_Watcher]:
    """A progress bar on a terminal, lines elsewhere, nothing if quiet."""
    if quiet:
        yield lambda done, total, news: None
    elif not sys.stdout.isatty():
        yield lambda done, total, news: print(*news, sep="\n", end="\n" if news else "", flush=True)
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Elapsed())
        with Progress(*columns) as progress:
            task = progress.add_task("instances", total=None)

            def watch(done: int, total: int, news: Iterable[str]) -> None:
                progress.update(task, completed=done, total=total)
                for line in news:
                    progress.console.print(line, highlight=False)

            yield watch
