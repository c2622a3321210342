"""The port of the packet filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What decides the packet rules of one tenant.

    Guests may reach the internet through `uplink` (any device that is no tenant's bridge if
    empty), masqueraded, and their own gateway's metadata port; never another tenant, never
    169.254.169.254 nor another link-local address, never the host's other ports.  Packets from
    the bridge with a source outside the subnet are dropped.
    """

    tenant_id: str
    tenant_net_id: int
    bridge: str
    subnet: str
    gateway_ip: str
    uplink: str
    metadata_port: int


@dataclass(frozen=True, slots=True)
class GuestRules:
    """What a guest may send from its TAP: IPv4 and ARP with its own MAC and address as sender.

    All else is dropped where it enters the bridge: other senders, IPv6, VLAN tags, other
    EtherTypes.  A guest's TAP without such rules passes nothing.  `mac` is in lower case.
    """

    tap: str
    mac: str
    ip: str


class Firewall(Protocol):
    """nftables, in tables of hostd's own.

    Any call may raise Broken `nftables`; one that changes, also Transient `firewall_busy`.
    """

    def is_current(self, rules: TenantRules) -> bool:
        """Whether the kernel holds exactly what `put` would write for this tenant."""

    def put(self, rules: TenantRules) -> None:
        """All rules of the tenant stand, replaced in one transaction."""

    def remove(self, tenant_net_id: int) -> None:
        """No rule, chain or element of the tenant or its guests is left; one transaction."""

    def tenants(self) -> frozenset[int]:
        """Net ids of which anything is left in hostd's tables."""

    def guest_is_current(self, rules: GuestRules) -> bool:
        """Whether the kernel holds exactly what `put_guest` would write for this TAP."""

    def put_guest(self, rules: GuestRules) -> None:
        """The guest is held to its own addresses; one transaction."""

    def remove_guest(self, tap: str) -> None:
        """Nothing about that TAP is left: it passes nothing; one transaction."""

    def guests(self) -> frozenset[str]:
        """The TAPs of which anything is left in hostd's tables."""
