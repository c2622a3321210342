"""`hostd`: run a host, look at it, try it out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Final

import click

from enqueue.command_line import DONE, FAILED, UNREACHABLE, USAGE, CommandLine, usage
from enqueue.errors import BadRequest
from worker.commands.cli import COMMANDS
from worker.commands.options import configured
from worker.config import Config
from worker.errors import ConfigError, HostdError, StartupError, Unreachable

__all__ = ["DONE", "FAILED", "UNREACHABLE", "USAGE", "main"]

ERRORS: Final = (ConfigError, StartupError, HostdError, BadRequest, click.UsageError)


def _report(error: Exception, _: click.Context) -> int:
    if isinstance(error, click.UsageError):
        print(usage(error), file=sys.stderr)
        return USAGE
    for line in str(error).splitlines():
        print(f"hostd: {line}", file=sys.stderr)
    if isinstance(error, HostdError):
        print(f"hostd: {error.code}; {error.hint}".rstrip("; "), file=sys.stderr)
    match error:
        case ConfigError() | BadRequest():
            return USAGE
        case Unreachable():
            return UNREACHABLE
        case _:
            return FAILED


@click.group(
    "hostd", cls=CommandLine, errors=ERRORS, report=_report,
    short_help="run a host, look at it, try it out",
)  # fmt: skip
@click.option(
    "--config", metavar="FILE", type=click.Path(path_type=Path),
    help="Default: /etc/hostd/hostd.toml.",
)  # fmt: skip
@click.option("--verbose", is_flag=True, help="Log more.")
@click.pass_context
def main(ctx: click.Context, config: Path | None, verbose: bool) -> None:
    """Run a host, look at it, try it out.

    Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 Redis or hostd does not answer.
    """
    ctx.obj = config
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(threadName)s %(message)s",
    )
    for noisy in ("httpx", "httpcore", "rq.worker", "pyroute2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@main.command(short_help="serve this host's queue, as root")
@configured
def run(config: Config) -> None:
    """Serve this host's queue, as root, until a signal ends it."""
    from worker.daemon.hostd import Hostd  # other commands start faster without the worker's parts

    try:
        Hostd(config).run()
    except BrokenPipeError as error:  # click would exit without a word: to it, a reader has left
        raise RuntimeError("hostd has ended on a broken pipe") from error


@main.command(short_help="see it work, in a sandbox of its own, as root")
@click.option("--keep", is_flag=True, help="Leave dashboard and metrics up.")
@click.option(
    "--kernel", metavar="FILE", type=click.Path(path_type=Path),
    help="A guest kernel, for a real Firecracker.",
)  # fmt: skip
def demo(keep: bool, kernel: Path | None) -> int:
    """See hostd work, in a sandbox of its own, as root."""
    logging.getLogger().setLevel(logging.WARNING)
    from worker.demo import play  # as above

    return play.run(keep=keep, kernel=kernel)


for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
