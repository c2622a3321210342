"""Options that several commands of hostctl have, each group of them as a decorator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from enqueue.hostctl.output import Printer
from enqueue.requests import REQUEST_TYPES

if TYPE_CHECKING:  # it brings redis and cryptography, which `--help` and completion do not need
    from enqueue.client import HostClient

F = TypeVar("F", bound=Callable[..., Any])
ALL: Final = 10_000  # of a kind, when no ids are given
DEFAULT_REDIS: Final = "redis://127.0.0.1:6379/0"


@dataclass(frozen=True, slots=True)
class Target:
    """Which host to ask, over which Redis, in whose name."""

    redis: str
    host: str
    key: str | None = None
    issuer: str = ""

    @contextmanager
    def client(self) -> Iterator[HostClient]:
        """A client of that Redis.

        Raises:
            UsageError: the URL or the key cannot be used.
        """
        from enqueue.client import HostClient
        from enqueue.signing import load_signer

        try:
            signer = load_signer(Path(self.key)) if self.key else None
            client = HostClient(self.redis, signer=signer, issuer=self.issuer)
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        with client:
            yield client


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether to wait for a result, and how long."""

    wait: bool
    timeout_s: float


def prints(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`; the command gets its `Printer` first."""

    def as_json(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        printer_of(ctx).as_json = value

    option = click.option(
        "--json", is_flag=True, is_eager=True, expose_value=False, callback=as_json,
        help="Print one JSON document a line.",
    )  # fmt: skip
    return option(click.pass_obj(command))


def printer_of(ctx: click.Context) -> Printer:
    """The one printer of this run of the program."""
    return ctx.find_root().ensure_object(Printer)


def asks_host(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--redis` and `--host`; the command gets `target`."""

    @click.option(
        "--redis",
        metavar="URL",
        envvar="HOSTCTL_REDIS",
        show_envvar=True,
        default=DEFAULT_REDIS,
        help=f"Default: {DEFAULT_REDIS}.",
    )
    @click.option(
        "--host", metavar="H", envvar="HOSTCTL_HOST", show_envvar=True, help="Which host to ask."
    )  # fmt: skip
    @wraps(command)
    def run(*args: Any, redis: str, host: str | None, **values: Any) -> Any:
        if not host:
            raise click.UsageError("which host? give --host H or set HOSTCTL_HOST")
        key, issuer = values.pop("key", None), values.pop("issuer", "")
        return command(*args, target=Target(redis, host, key, issuer), **values)

    return run


def signs(command: F) -> F:
    """`--key` and `--issuer`: they go into `target`.  Outside of `asks_host`."""
    key = click.option(
        "--key", metavar="FILE", envvar="HOSTCTL_KEY", show_envvar=True,
        help="The private key that signs the request.",
    )  # fmt: skip
    issuer = click.option(
        "--issuer", envvar="HOSTCTL_ISSUER", show_envvar=True, default="hostctl",
        help="Who asks (default: hostctl).",
    )  # fmt: skip
    return key(issuer(command))


def waits(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--wait` and `--timeout`; the command gets `waiting`."""

    @click.option("--wait", is_flag=True, help="Wait for the result.")
    @click.option(
        "--timeout", metavar="S", type=float, default=300.0, help="Wait so long (default: 300)."
    )
    @wraps(command)
    def run(*args: Any, wait: bool, timeout: float, **values: Any) -> Any:
        return command(*args, waiting=Waiting(wait, timeout), **values)

    return run


def one_kind(which: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """REQUEST_ID... or `--op`, one of the two; the command gets `request_ids` and `op`."""

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("request_ids", metavar="[REQUEST_ID]...", nargs=-1)
        @click.option(
            "--op", type=click.Choice(list(REQUEST_TYPES)), metavar="OP",
            help=f"Instead of ids: {which} of this kind, as SleepInstance.",
        )  # fmt: skip
        @wraps(command)
        def run(*args: Any, request_ids: tuple[str, ...], op: str | None, **values: Any) -> Any:
            if bool(request_ids) == bool(op):
                name = click.get_current_context().info_name
                raise click.UsageError(
                    f"{name} what? give request ids, or --op for {which} of a kind"
                )
            return command(*args, request_ids=request_ids, op=op, **values)

        return run

    return decorated
