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


class Firewall(Protocol):
    """nftables, in a table of hostd's own.

    Any call may raise Broken `nftables`; one that changes, also Transient `firewall_busy`.
    """

    def stands(self, rules: TenantRules) -> bool:
        """Whether the kernel holds exactly what `put` would write for this tenant."""

    def put(self, rules: TenantRules) -> None:
        """All rules of the tenant stand, replaced in one transaction."""

    def remove(self, tenant_net_id: int) -> None:
        """No rule, chain or map element of the tenant is left; one transaction."""

    def tenants(self) -> frozenset[int]:
        """Net ids of which anything is left in hostd's table."""
