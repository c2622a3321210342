"""How `hostd plan OPERATION ...` is called and what it prints."""

from __future__ import annotations

from typing import Any, Final, cast, get_args

import click

from enqueue.operations import command_of, request_of
from enqueue.requests import REQUEST_TYPES, InstanceRequest, NetworkRequest, Request
from worker.commands.options import as_json, configured
from worker.commands.output import show
from worker.config import Config

Planned = InstanceRequest | NetworkRequest
PLANNED: Final[tuple[type[Planned], ...]] = get_args(Planned)


@click.group(short_help="what a request would do now, without doing it", no_args_is_help=False)
def plan() -> None:
    """Show the steps that a request would do now, and which of them hold already.

    Nothing is changed or reserved.
    """


def _command(kind: type[Request]) -> click.Command:
    @as_json
    @configured
    def run(config: Config, as_json: bool, **values: Any) -> None:
        from worker.commands.host_view import open_host
        from worker.commands.plan import preview

        request = cast("Planned", request_of(kind, values))
        with open_host(config) as view:
            steps = preview(view, request)
        if steps or as_json:
            show(steps, as_json=as_json)
        else:
            print("nothing to do: the goal holds")

    return command_of(kind, run)


for kind in REQUEST_TYPES.values():
    if kind in PLANNED:
        plan.add_command(_command(kind))
