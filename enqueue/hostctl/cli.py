"""hostctl: asks a host to do things, and shows what it does."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from enqueue.client import HostClient
from enqueue.conversation.listing import JOB_STATES
from enqueue.errors import BadRequest, EnqueueError, QueueUnavailable, WaitTimeout
from enqueue.hostctl import commands
from enqueue.hostctl import output as show
from enqueue.hostctl.commands import Unusable
from enqueue.requests import Request
from enqueue.signing import load_signer

DONE, FAILED, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
OPS = [request.__name__ for request in get_args(Request)]
DEFAULT_REDIS = "redis://127.0.0.1:6379/0"

_EPILOG = """\
exit codes: 0 done, 1 failed, 2 wrong usage, 3 Redis or the host did not answer in time
environment: HOSTCTL_REDIS, HOSTCTL_HOST, HOSTCTL_KEY, HOSTCTL_ISSUER
"""
_INSTANCE_OPS = {
    "start": "boot an instance",
    "stop": "stop an instance, keeping its data volume",
    "sleep": "save an instance's memory and stop it",
    "wake": "let an instance run on from its memory",
    "destroy": "remove an instance",
}
_NET_OPS = {"net-up": "set a tenant's network up", "net-down": "take a tenant's network down"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    options = parser().parse_args(argv)
    printer = show.Printer(as_json=options.json)
    try:
        return DONE if _succeeds(options, printer) else FAILED
    except (QueueUnavailable, WaitTimeout) as error:
        printer.error(error)
        return UNREACHABLE
    except (Unusable, BadRequest) as error:
        printer.error(error)
        return USAGE
    except EnqueueError as error:
        printer.error(error)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_gone()


def _succeeds(options: argparse.Namespace, printer: show.Printer) -> bool:
    if options.command == "keygen":
        commands.keygen(options, printer)
        return True
    if options.command == "acl":
        commands.acl(options, printer)
        return True
    with _client(options) as client:
        return commands.run(options, client, printer)


def _client(options: argparse.Namespace) -> HostClient:
    try:
        key: str | None = getattr(options, "key", None)
        signer = load_signer(Path(key)) if key else None
        return HostClient(options.redis, signer=signer, issuer=getattr(options, "issuer", ""))
    except (OSError, ValueError) as error:
        raise Unusable(str(error)) from error


def _reader_gone() -> int:
    # Python flushes stdout once more at exit and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="hostctl",
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    output, redis, waiting, asking = _json(), _redis(), _waiting(), _asking()
    request = [output, redis, asking, waiting]
    for name, words in _INSTANCE_OPS.items():
        _instance(subs.add_parser(name, help=words, parents=request), name)
    for name, words in _NET_OPS.items():
        _network(subs.add_parser(name, help=words, parents=request))
    subs.add_parser("ping", help="ask whether the host works", parents=request)
    wait = subs.add_parser("wait", help="wait for a request", parents=[output, redis, waiting])
    wait.add_argument("request_id", metavar="REQUEST_ID")
    retry = subs.add_parser(
        "retry", help="run failed requests again", parents=[output, redis, waiting]
    )
    retry.add_argument("request_ids", metavar="REQUEST_ID", nargs="*")
    retry.add_argument(
        "--op", choices=OPS, metavar="OP", help="all failed requests of this kind, as SleepInstance"
    )
    retry.add_argument(
        "--since",
        metavar="T",
        help="with --op: those that failed since then, as 2026-01-31T04:00:00Z or 90m, 12h, 3d ago",
    )
    retry.add_argument("--dry-run", action="store_true", help="say which, and do nothing")
    cancel = subs.add_parser("cancel", help="cancel requests that wait", parents=[output, redis])
    cancel.add_argument("request_ids", metavar="REQUEST_ID", nargs="*")
    cancel.add_argument(
        "--op",
        choices=OPS,
        metavar="OP",
        help="all waiting requests of this kind, as StartInstance",
    )
    _jobs(subs.add_parser("jobs", help="list a host's requests", parents=[output, redis]))
    _events(subs.add_parser("events", help="show a host's events", parents=[output, redis]))
    _keygen(subs.add_parser("keygen", help="make a key pair", parents=[output]))
    _acl(subs.add_parser("acl", help="write Redis ACL users and passwords", parents=[output]))
    return top


def _json() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON document per line")
    return common


def _redis() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    url = os.environ.get("HOSTCTL_REDIS", DEFAULT_REDIS)
    common.add_argument("--redis", metavar="URL", default=url, help=f"default: {DEFAULT_REDIS}")
    host = os.environ.get("HOSTCTL_HOST")
    common.add_argument("--host", metavar="H", default=host, help="which host to ask")
    return common


def _asking() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--key", metavar="FILE", default=os.environ.get("HOSTCTL_KEY"))
    issuer = os.environ.get("HOSTCTL_ISSUER", "hostctl")
    common.add_argument("--issuer", default=issuer, help="who asks (default: %(default)s)")
    common.add_argument("--request-id", metavar="ID", help="makes asking twice safe")
    common.add_argument(
        "--not-after", metavar="SECONDS", type=float, help="do not begin later (default: 24 h)"
    )
    return common


def _waiting() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--wait", action="store_true", help="wait for the result")
    common.add_argument(
        "--timeout", metavar="S", type=float, default=300.0, help="wait so long (default: 300)"
    )
    return common


def _instance(sub: argparse.ArgumentParser, name: str) -> None:
    for field in ("tenant", "pool", "instance"):
        sub.add_argument(field, metavar=field.upper())
    if name == "sleep":
        sub.add_argument("--force", action="store_true", help="skip the guest's drain")
        sub.add_argument("--drain-timeout", metavar="S", type=int, help="default: the pool's")
    if name == "destroy":
        sub.add_argument("--wipe-volumes", action="store_true", help="and its data")


def _network(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("tenant", metavar="TENANT")
    sub.add_argument("--net-id", metavar="N", type=int, required=True)
    sub.add_argument("--subnet", metavar="10.240.N.0/24", required=True)


def _jobs(sub: argparse.ArgumentParser) -> None:
    for state in JOB_STATES:
        sub.add_argument(
            f"--{state}", dest="states", action="append_const", const=state, help=f"{state} ones"
        )
    sub.add_argument("--limit", metavar="N", type=int, default=100, help="of each (default: 100)")


def _events(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--follow", action="store_true", help="go on until interrupted")
    sub.add_argument("--since", metavar="ID", default="0", help="after this one, or `now`")


def _keygen(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("key_id", metavar="KEY_ID")
    sub.add_argument("--private", metavar="FILE", required=True, help="for the one who asks")
    sub.add_argument("--public", metavar="FILE", required=True, help="for the host's keys_dir")


def _acl(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("directory", metavar="DIRECTORY", help="for users.acl and the passwords")
    sub.add_argument("hosts", metavar="HOST", nargs="+")


if __name__ == "__main__":
    sys.exit(main())
