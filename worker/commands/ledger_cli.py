"""How the commands about what is on record are called: `hostd ledger`, `audit` and `recover`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from enqueue.command_line import DONE, FAILED
from worker.commands.options import as_json, configured, since
from worker.commands.output import print_json, show, show_facts
from worker.config import Config


@click.group(short_help="every request that this host has accepted", no_args_is_help=False)
def ledger() -> None:
    """Read the ledger: every request that this host has accepted; also while hostd runs."""


@ledger.command(short_help="how many, how old, how big, and whether it is whole")
@as_json
@configured
def stats(config: Config, as_json: bool) -> None:
    """Count the requests, show the ledger's age and size, and check it."""
    from worker.commands.ledger import stats

    show_facts(stats(config.paths.ledger), as_json=as_json)


@ledger.command("show", short_help="everything about one request")
@click.argument("request_id", metavar="REQUEST_ID")
@as_json
@configured
def show_(config: Config, request_id: str, as_json: bool) -> None:
    """Show everything on record about one request."""
    from worker.commands.ledger import one

    show_facts(one(config.paths.ledger, request_id), as_json=as_json)


@ledger.command(short_help="every request, a JSON document a line")
@since
@as_json
@configured
def export(config: Config, since_ms: int | None, as_json: bool) -> None:
    """Print every request as a JSON document a line, in the order of acceptance."""
    from worker.commands.ledger import export

    print_json(export(config.paths.ledger, since_ms=since_ms or 0))


@ledger.command(short_help="a checked copy, while hostd runs")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@as_json
@configured
def backup(config: Config, file: Path, as_json: bool) -> None:
    """Write a checked copy of the ledger to FILE; also while hostd runs."""
    from worker.ledger.backup import backup

    path = config.paths.ledger
    size_bytes = backup(path, file, now_ms=int(time.time() * 1000))
    facts = {"ledger": str(path), "backup": str(file), "size_bytes": size_bytes}
    show_facts(facts, as_json=as_json)


@ledger.command(short_help="whether it is whole and agrees with itself")
@as_json
@configured
def verify(config: Config, as_json: bool) -> int:
    """Check that the ledger is whole and agrees with itself."""
    from worker.commands.ledger import verify

    wrong = verify(config.paths.ledger)
    show_facts({"whole": not wrong, "faults": wrong}, as_json=as_json)
    return FAILED if wrong else DONE


@click.command(short_help="what happened to instances, from tenants' logs")
@click.option("--tenant", help="Only this tenant.")
@click.option("--instance", help="Only this instance.")
@since
@as_json
@configured
def audit(
    config: Config, tenant: str | None, instance: str | None, since_ms: int | None, as_json: bool
) -> None:
    """Show what happened to instances, from the tenants' own logs, by time."""
    from worker.commands.audit import Wanted, entries
    from worker.model.layout import Layout

    found = entries(Layout(config.paths.state), Wanted(tenant, instance, since_ms or 0))
    if as_json:
        print_json(found)
    else:
        show(list(found), as_json=False)


@click.command(short_help="repair what hostd does not repair by itself")
@click.option(
    "--rebuild-ledger", is_flag=True,
    help="The ledger is lost: make a new one from what is on the host.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Even if the ledger is whole.")
@as_json
@configured
def recover(config: Config, rebuild_ledger: bool, force: bool, as_json: bool) -> None:
    """Repair what hostd does not repair by itself."""
    from worker.commands.rebuild import rebuild

    if not rebuild_ledger:
        raise click.UsageError("recover what? give --rebuild-ledger")
    show_facts(rebuild(config, force=force), as_json=as_json)
