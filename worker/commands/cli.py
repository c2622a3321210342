"""The operator's commands: a table for people, `--json` for programs.

What a command needs is imported when it runs, so that `hostd --help` and completion are quick.
"""

from __future__ import annotations

from typing import Final

import click
import msgspec

from enqueue.command_line import DONE, FAILED
from worker.commands.drain_cli import drain, undrain
from worker.commands.ledger_cli import audit, ledger, recover
from worker.commands.options import as_json, configured
from worker.commands.output import print_json, show, show_facts
from worker.commands.plan_cli import plan
from worker.commands.sweep_cli import sweep
from worker.config import Config


@click.command(short_help="what is with an instance, and what to do")
@click.argument("instance", metavar="INSTANCE")
@as_json
@configured
def why(config: Config, instance: str, as_json: bool) -> None:
    """Show what is on record of an instance and what runs of it, and advise what to do."""
    from worker.commands.host_view import open_host
    from worker.commands.why import why

    with open_host(config) as view:
        show_facts(why(view, instance), as_json=as_json)


@click.command(short_help="every instance of this host")
@as_json
@configured
def status(config: Config, as_json: bool) -> None:
    """Show every instance of this host, as its record and as the machine has it."""
    from worker.commands.host_view import open_host
    from worker.commands.status import instances

    with open_host(config) as view:
        show(instances(view), as_json=as_json)


@click.command(short_help="whether this machine is fit to be a host")
@as_json
@configured
def doctor(config: Config, as_json: bool) -> int:
    """Check whether this machine is fit to be a host; change nothing."""
    from worker.commands.doctor import examine

    findings = examine(config)
    show([msgspec.to_builtins(finding) for finding in findings], as_json=as_json)
    return FAILED if any(finding.grade == "fail" for finding in findings) else DONE


@click.command("config", short_help="the configuration in force, or its faults")
@as_json
@configured
def config_(config: Config, as_json: bool) -> None:
    """Show the configuration in force, with all defaults, or every fault in it."""
    document = msgspec.to_builtins(config, enc_hook=str)
    if as_json:
        print_json([document])
        return
    print(f'host = "{document.pop("host")}"')
    for section, values in document.items():
        print(f"[{section}]")
        for key, value in values.items():
            print(f"{key} = {msgspec.json.encode(value).decode()}")


COMMANDS: Final[tuple[click.Command, ...]] = (
    *(why, status, plan, doctor, config_),
    *(drain, undrain, sweep),
    *(ledger, audit, recover),
)
