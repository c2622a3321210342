"""The commands about what is on record: `hostd ledger`, `hostd audit`, `hostd recover`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from enqueue.times import parse_time
from worker.commands.arguments import readable
from worker.commands.output import print_json, show, show_facts
from worker.config import load

_SINCE = "a time (2026-11-24T02:30:00Z) or an age (90m, 12h, 7d)"


def add_to(commands: Any) -> None:
    """Adds the commands to a parser's sub-commands."""
    _add_ledger(commands)
    audit = commands.add_parser("audit", help="what happened to instances, from tenants' logs")
    audit.add_argument("--tenant")
    audit.add_argument("--instance")
    audit.add_argument("--since", type=readable(parse_time), default=0, metavar="T", help=_SINCE)
    audit.set_defaults(command=_audit)
    recover = commands.add_parser("recover", help="repair what hostd does not repair by itself")
    recover.add_argument(
        "--rebuild-ledger", action="store_true", required=True,
        help="the ledger is lost: make a new one from what the machine holds",
    )  # fmt: skip
    recover.add_argument("--force", action="store_true", help="even if the ledger is whole")
    recover.set_defaults(command=_recover)
    for parser in (audit, recover):
        parser.add_argument("--json", action="store_true", help="for programs")


def _add_ledger(commands: Any) -> None:
    ledger = commands.add_parser("ledger", help="every request that this host has accepted")
    of_ledger = ledger.add_subparsers(required=True, metavar="WHAT")
    stats = of_ledger.add_parser(
        "stats", help="how many, how old, how big, and whether it is whole"
    )
    stats.set_defaults(command=_stats)
    one = of_ledger.add_parser("show", help="everything about one request")
    one.add_argument("request_id")
    one.set_defaults(command=_one)
    export = of_ledger.add_parser("export", help="every request, a JSON document a line")
    export.add_argument("--since", type=readable(parse_time), default=0, metavar="T", help=_SINCE)
    export.set_defaults(command=_export)
    backup = of_ledger.add_parser("backup", help="a checked copy, while hostd runs")
    backup.add_argument("file", type=Path)
    backup.set_defaults(command=_backup)
    verify = of_ledger.add_parser("verify", help="whether it is whole and agrees with itself")
    verify.set_defaults(command=_verify)
    for parser in (stats, one, export, backup, verify):
        parser.add_argument("--json", action="store_true", help="for programs")


def _stats(arguments: argparse.Namespace) -> int:
    from worker.commands.ledger import stats

    show_facts(stats(load(arguments.config).paths.ledger), as_json=arguments.json)
    return 0


def _one(arguments: argparse.Namespace) -> int:
    from worker.commands.ledger import one

    found = one(load(arguments.config).paths.ledger, arguments.request_id)
    show_facts(found, as_json=arguments.json)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from worker.commands.ledger import export

    print_json(export(load(arguments.config).paths.ledger, since_ms=arguments.since))
    return 0


def _backup(arguments: argparse.Namespace) -> int:
    from worker.ledger.backup import backup

    path = load(arguments.config).paths.ledger
    size_bytes = backup(path, arguments.file, now_ms=int(time.time() * 1000))
    facts = {"ledger": str(path), "backup": str(arguments.file), "size_bytes": size_bytes}
    show_facts(facts, as_json=arguments.json)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from worker.commands.ledger import verify

    wrong = verify(load(arguments.config).paths.ledger)
    show_facts({"whole": not wrong, "faults": wrong}, as_json=arguments.json)
    return 1 if wrong else 0


def _audit(arguments: argparse.Namespace) -> int:
    from worker.commands.audit import Wanted, entries
    from worker.model.names import Layout

    wanted = Wanted(arguments.tenant, arguments.instance, arguments.since)
    found = entries(Layout(load(arguments.config).paths.state), wanted)
    if arguments.json:
        print_json(found)
    else:
        show(list(found), as_json=False)
    return 0


def _recover(arguments: argparse.Namespace) -> int:
    from worker.commands.rebuild import rebuild

    show_facts(rebuild(load(arguments.config), force=arguments.force), as_json=arguments.json)
    return 0
