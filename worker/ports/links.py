"""The port of network devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge as the kernel shows it.  `owner_tag` is its alias, `hostd:<tenant>` on hostd's."""

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
            Conflict: `foreign_device`, a device of that name is not a bridge.
        """

    def put_bridge(self, name: str, *, address: str, mac: str, owner_tag: str) -> None:
        """Makes or repairs the bridge: it is up, forwards IPv4, and has this MAC, this owner tag
        and only this IPv4 address (`a.b.c.d/24`).

        Raises:
            Conflict: `foreign_device`, a device of that name has another owner tag.
        """

    def tap(self, name: str) -> Tap | None:
        """The TAP of that name.

        Raises:
            Conflict: `foreign_device`, a device of that name is not a TAP.
        """

    def put_tap(self, name: str, *, owner_uid: int, bridge: str, owner_tag: str) -> None:
        """Makes or repairs the persistent TAP: it is up, of that owner, and a port of the bridge.

        A TAP with this owner tag and another owner is replaced.

        Raises:
            Conflict: `foreign_device`, a device of that name has another owner tag.
            Conflict: `no_bridge`, there is no bridge of that name.
        """

    def delete(self, name: str) -> None:
        """Deletes the device and waits, bounded, until it is gone.

        Raises:
            Conflict: `foreign_device`, the device has no owner tag of hostd.
            Transient: `device_busy`, it was still there after 5 s.
        """

    def ports(self, bridge: str) -> frozenset[str]:
        """Names of the devices attached to the bridge; empty without such a bridge."""

    def owned(self) -> Mapping[str, str]:
        """Every device with an owner tag of hostd: name to tag."""

    def forwarding(self) -> bool:
        """Whether the namespace forwards IPv4 (`net.ipv4.ip_forward`)."""

    def enable_forwarding(self) -> None:
        """Makes the namespace forward IPv4."""
