"""How `hostd sweep` is called and what it prints."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from worker.commands.output import show
from worker.config import load


def add_to(commands: Any) -> None:
    """Adds the command to a parser's sub-commands."""
    sweep = commands.add_parser("sweep", help="what is left over on this host, and away with it")
    what = sweep.add_mutually_exclusive_group(required=True)
    what.add_argument("--dry-run", action="store_true", help="show it, change nothing")
    what.add_argument("--apply", action="store_true", help="remove what is due")
    sweep.add_argument(
        "--grace", type=float, metavar="SECONDS", help="instead of [sweep] grace_s; 0: now"
    )
    sweep.add_argument("--moved", action="store_true", help="the state directory was moved")
    sweep.add_argument("--json", action="store_true", help="for programs")
    sweep.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from worker.commands import sweep  # other commands start faster without it
    from worker.commands.host_view import open_host

    config = load(arguments.config)
    grace_s = config.sweep.grace_s if arguments.grace is None else max(0.0, arguments.grace)
    with open_host(config) as view:
        if arguments.dry_run:
            rows, problems = sweep.rows(sweep.found(view), grace_s), list[str]()
        else:
            rows, problems = sweep.sweep(view, grace_s, moved=arguments.moved)
    if rows or arguments.json:
        show(rows, as_json=arguments.json)
    else:
        print("nothing is left over" if arguments.dry_run else "nothing was due")
    for problem in problems:
        print(f"hostd: left over still: {problem}", file=sys.stderr)
    return 1 if problems else 0
