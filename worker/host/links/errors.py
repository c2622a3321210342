"""The errors about network devices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from worker.errors import Broken, Conflict, HostdError
from worker.host.links.link_message import Link


def foreign(link: Link, why: str) -> Conflict:
    """`foreign_device`: hostd must not touch the device."""
    return Conflict(
        "foreign_device",
        f"{link.name} {why}",
        hint=f"rename it, or remove it if it is not needed: ip link delete {link.name}",
        kind=link.kind or "physical",
        alias=link.alias,
    )


def no_bridge(tap: str, bridge: str) -> Conflict:
    """`no_bridge`: nothing to attach the TAP to."""
    return Conflict(
        "no_bridge",
        f"there is no bridge {bridge} to attach {tap} to",
        hint="run SetupNetwork for the tenant first",
    )


@contextmanager
def translate_errors(doing: str, name: str) -> Iterator[None]:
    """Translates the kernel's errors to Broken `netlink`."""
    try:
        yield
    except HostdError:
        raise
    except OSError as error:
        raise Broken(
            "netlink",
            f"could not {doing} {name}: {error.strerror or error}",
            hint="hostd needs CAP_NET_ADMIN and the bridge and tun modules; try `hostd doctor`",
            errno=error.errno,
        ) from error
