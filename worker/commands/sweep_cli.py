"""How `hostd sweep` is called and what it prints."""

from __future__ import annotations

import sys

import click

from enqueue.command_line import DONE, FAILED
from worker.commands.options import as_json, configured
from worker.commands.output import show
from worker.config import Config


@click.command(short_help="show or remove what is left over on this host")
@click.option("--dry-run", is_flag=True, help="Show it, change nothing.")
@click.option("--apply", is_flag=True, help="Remove what is due.")
@click.option(
    "--grace", metavar="SECONDS", type=float, help="Instead of [sweep] grace_s; 0: all is due."
)
@click.option("--moved", is_flag=True, help="The state directory was moved on purpose.")
@as_json
@configured
def sweep(
    config: Config, dry_run: bool, apply: bool, grace: float | None, moved: bool, as_json: bool
) -> int:
    """Show or remove what is left over on this host; also while hostd runs."""
    from worker.commands import sweep
    from worker.commands.host_view import open_host

    if dry_run == apply:
        raise click.UsageError("give either --dry-run or --apply")
    grace_s = config.sweep.grace_s if grace is None else max(0.0, grace)
    with open_host(config) as view:
        if dry_run:
            rows, problems = sweep.rows(sweep.found(view), grace_s), list[str]()
        else:
            rows, problems = sweep.sweep(view, grace_s, moved=moved)
    if rows or as_json:
        show(rows, as_json=as_json)
    else:
        print("nothing is left over" if dry_run else "nothing was due")
    for problem in problems:
        print(f"hostd: left over still: {problem}", file=sys.stderr)
    return FAILED if problems else DONE
