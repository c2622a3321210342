"""The port of network devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge as the kernel shows it.  `owner_tag` is its alias, `hostd:<tenant>` on ours."""

    name: str
    up: bool
    addresses: frozenset[str]  # "10.240.5.1/24"
    mac: str
    owner_tag: str
    forwarding: bool


@dataclass(frozen=True, slots=True)
class Tap:
    """A TAP device as the kernel shows it.  `bridge` is the bridge it is a port of."""

    name: str
    up: bool
    owner_uid: int | None
    bridge: str | None
    owner_tag: str


class Links(Protocol):
    """Network devices of the namespace that hostd runs in."""

    def bridge(self, name: str) -> Bridge | None:
        """The bridge of that name.

        Raises:
            Conflict: `foreign_device`, a device of that name is no bridge.
        """

    def put_bridge(self, name: str, *, address: str, mac: str, owner_tag: str) -> None:
        """The bridge exists, is up and forwards IPv4; it has this MAC, this owner tag and no IPv4
        address but this one (`a.b.c.d/24`).

        Raises:
            Conflict: `foreign_device`, the name is taken by something without this owner tag.
        """

    def tap(self, name: str) -> Tap | None:
        """The TAP of that name.

        Raises:
            Conflict: `foreign_device`, a device of that name is no TAP.
        """

    def put_tap(self, name: str, *, owner_uid: int, bridge: str, owner_tag: str) -> None:
        """The persistent TAP exists, is up, belongs to the uid and is a port of the bridge.

        A TAP of ours with another owner is made anew.

        Raises:
            Conflict: `foreign_device`, the name is taken by something without this owner tag.
            Conflict: `no_bridge`, there is no bridge of that name.
        """

    def delete(self, name: str) -> None:
        """No device of that name is left; waits, bounded, until it is really gone.

        Raises:
            Conflict: `foreign_device`, the device carries no owner tag of hostd's.
            Transient: `device_busy`, it was still there after 5 s.
        """

    def ports(self, bridge: str) -> frozenset[str]:
        """Names of the devices attached to the bridge; none if there is no such bridge."""

    def owned(self) -> Mapping[str, str]:
        """Every device with a mark of hostd's: name to mark."""

    def forwarding(self) -> bool:
        """Whether the namespace forwards IPv4 (`net.ipv4.ip_forward`)."""

    def enable_forwarding(self) -> None:
        """The namespace forwards IPv4."""
