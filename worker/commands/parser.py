"""The operator's commands and how they print: a table for people, `--json` for programs.

What a command needs is imported when it runs, so that `hostd --help` is quick.
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import msgspec

from enqueue.requests import InstanceRequest, NetworkRequest, Request, bridge_name
from worker.commands import drain_cli as drain_command
from worker.commands import ledger_cli as ledger_commands
from worker.commands import sweep_cli as sweep_command
from worker.commands.output import print_json, show
from worker.config import load
from worker.errors import Rejected

INSTANCE_OPS = {
    "start": "StartInstance",
    "stop": "StopInstance",
    "sleep": "SleepInstance",
    "wake": "WakeInstance",
    "destroy": "DestroyInstance",
}
NETWORK_OPS = {"net-up": "SetupNetwork", "net-down": "TeardownNetwork"}


def add_to(commands: Any) -> None:
    """Adds the commands to a parser's sub-commands."""
    why = commands.add_parser("why", help="what is with an instance, and what to do")
    why.add_argument("instance")
    why.set_defaults(command=_why)
    status = commands.add_parser("status", help="every instance of this host")
    status.set_defaults(command=_status)
    plan = commands.add_parser("plan", help="what a request would do now, without doing it")
    plan.set_defaults(command=_plan)
    ops = plan.add_subparsers(required=True, metavar="OPERATION", dest="operation")
    for op in INSTANCE_OPS:
        one = ops.add_parser(op)
        for name in ("tenant", "pool", "instance"):
            one.add_argument(name)
    for op in NETWORK_OPS:
        one = ops.add_parser(op)
        one.add_argument("tenant")
        one.add_argument("--net-id", type=int, required=True)
        one.add_argument("--subnet", required=True, help="a /24, as in 10.240.5.0/24")
    doctor = commands.add_parser("doctor", help="whether this machine is fit to be a host")
    doctor.set_defaults(command=_doctor)
    config = commands.add_parser("config", help="the configuration in force, or its faults")
    config.set_defaults(command=_config)
    ledger_commands.add_to(commands)
    sweep_command.add_to(commands)
    drain_command.add_to(commands)
    for parser in (why, status, doctor, config, *ops.choices.values()):
        parser.add_argument("--json", action="store_true", help="for programs")


def _why(arguments: argparse.Namespace) -> int:
    from worker.commands.host_view import open_host
    from worker.commands.why import why

    with open_host(load(arguments.config)) as view:
        facts = why(view, arguments.instance)
    if arguments.json:
        print_json([facts])
        return 0
    for key, value in facts.items():
        for line in value if isinstance(value, list) else [value]:
            print(f"{key:<9} {line}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from worker.commands.host_view import open_host
    from worker.commands.status import instances

    with open_host(load(arguments.config)) as view:
        show(instances(view), as_json=arguments.json)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from worker.commands.host_view import open_host
    from worker.commands.plan import preview

    request = _request(arguments)
    with open_host(load(arguments.config)) as view:
        steps = preview(view, request)
    if not steps and not arguments.json:
        print("nothing to do: the goal holds")
        return 0
    show(steps, as_json=arguments.json)
    return 0


def _request(arguments: argparse.Namespace) -> InstanceRequest | NetworkRequest:
    """The request that the words on the command line name.

    Raises:
        Rejected: `malformed`, they break the protocol.
    """
    if arguments.operation in INSTANCE_OPS:
        value: dict[str, Any] = {
            "op": INSTANCE_OPS[arguments.operation],
            "tenant_id": arguments.tenant,
            "pool_id": arguments.pool,
            "instance_id": arguments.instance,
        }
    else:
        net = {
            "tenant_net_id": arguments.net_id,
            "ipv4_subnet": arguments.subnet,
            "gateway_ip": arguments.subnet.rpartition(".")[0] + ".1",
            "bridge_name": bridge_name(arguments.net_id),
        }
        value = {"op": NETWORK_OPS[arguments.operation], "tenant_id": arguments.tenant, "net": net}
    try:
        return cast("InstanceRequest | NetworkRequest", msgspec.convert(value, Request))
    except msgspec.ValidationError as error:
        raise Rejected("malformed", str(error)) from error


def _doctor(arguments: argparse.Namespace) -> int:
    from worker.commands.doctor import examine

    findings = examine(load(arguments.config))
    show([msgspec.to_builtins(finding) for finding in findings], as_json=arguments.json)
    return 1 if any(finding.grade == "fail" for finding in findings) else 0


def _config(arguments: argparse.Namespace) -> int:
    config = msgspec.to_builtins(load(arguments.config), enc_hook=str)
    if arguments.json:
        print_json([config])
        return 0
    print(f'host = "{config.pop("host")}"')
    for section, values in config.items():
        print(f"[{section}]")
        for key, value in values.items():
            print(f"{key} = {msgspec.json.encode(value).decode()}")
    return 0
