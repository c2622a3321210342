"""`hostd`: run a host, look at it, try it out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.commands import parser as commands_of_operators
from worker.config import load
from worker.errors import ConfigError, HostdError, StartupError, Unreachable

DONE, FAILED, USAGE, UNREACHABLE = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0 done, 1 failed, 2 usage, 3 unreachable."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(threadName)s %(message)s",
    )
    for noisy in ("rq.worker", "pyroute2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return int(arguments.command(arguments))
    except (ConfigError, StartupError, HostdError) as error:
        for line in str(error).splitlines():
            print(f"hostd: {line}", file=sys.stderr)
        if isinstance(error, HostdError):
            print(f"hostd: {error.code}; {error.hint}".rstrip("; "), file=sys.stderr)
        return _exit_code(error)
    except KeyboardInterrupt:
        return 130


def _exit_code(error: Exception) -> int:
    match error:
        case ConfigError():
            return USAGE
        case Unreachable():
            return UNREACHABLE
        case _:
            return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hostd", description=__doc__)
    parser.add_argument("--config", type=Path, help="default: /etc/hostd/hostd.toml")
    parser.add_argument("--verbose", action="store_true", help="log more")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="serve this host's queue, as root")
    run.set_defaults(command=_run)
    demo = commands.add_parser("demo", help="see it work, in a sandbox of its own, as root")
    demo.add_argument("--keep", action="store_true", help="leave dashboard and metrics up")
    demo.add_argument("--kernel", type=Path, help="a guest kernel, for a real Firecracker")
    demo.set_defaults(command=_demo)
    commands_of_operators.add_to(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    from worker.daemon.hostd import Hostd  # other commands start faster without the worker's parts

    Hostd(config).run()
    return DONE


def _demo(arguments: argparse.Namespace) -> int:
    logging.getLogger().setLevel(logging.WARNING)
    from worker.demo import play  # as above

    return play.run(keep=arguments.keep, kernel=arguments.kernel)


if __name__ == "__main__":
    sys.exit(main())
