"""The port of the packet filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What decides the packet rules of one tenant.

    Guests may reach the internet through `uplink` (any device but tenants' bridges if
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

    Everything else is dropped where it enters the bridge: other senders, IPv6, VLAN tags, other
    EtherTypes.  A guest's TAP without such rules sends nothing.  `mac` is in lower case.
    """

    tap: str
    mac: str
    ip: str


class Firewall(Protocol):
    """Packet rules in nftables tables that only hostd uses.

    Any call may raise Broken `nftables`; one that changes, also Transient `firewall_busy`.
    """

    def is_current(self, rules: TenantRules) -> bool:
        """Whether the kernel has exactly the rules that `put` would write for this tenant."""

    def put(self, rules: TenantRules) -> None:
        """Writes all rules of the tenant in one transaction, replacing others."""

    def remove(self, tenant_net_id: int) -> None:
        """Removes all rules of the tenant and its guests in one transaction."""

    def tenants(self) -> frozenset[int]:
        """The net ids of all tenants with rules, or with guests' rules, in hostd's tables."""

    def guest_is_current(self, rules: GuestRules) -> bool:
        """Whether the kernel has exactly the rules that `put_guest` would write for this TAP."""

    def put_guest(self, rules: GuestRules) -> None:
        """Limits the guest to its own addresses, in one transaction."""

    def remove_guest(self, tap: str) -> None:
        """Removes all rules of that TAP in one transaction: it sends nothing any more."""

    def guests(self) -> frozenset[str]:
        """The TAPs with rules in hostd's tables."""
