"""Steps for a tenant's network."""

from __future__ import annotations

from dataclasses import dataclass

from enqueue.requests import TenantId, TenantNet
from worker.model.names import guest_mac, owner_tag
from worker.ports import Host, TenantRules


@dataclass(frozen=True, slots=True)
class FirewallPresent:
    """All of the tenant's NAT, forward, cross-tenant and metadata rules are in force."""

    rules: TenantRules
    name: str = "firewall_present"

    def done(self, host: Host) -> bool:
        return host.firewall.is_current(self.rules)

    def apply(self, host: Host) -> None:
        host.firewall.put(self.rules)

    def undo(self, host: Host) -> None:
        if host.links.bridge(self.rules.bridge) is None:  # never a bridge without its rules
            host.firewall.remove(self.rules.tenant_net_id)


@dataclass(frozen=True, slots=True)
class ForwardingOn:
    """The namespace forwards IPv4.  Never undone: other programs may rely on it."""

    name: str = "forwarding_on"

    def done(self, host: Host) -> bool:
        return host.links.forwarding()

    def apply(self, host: Host) -> None:
        host.links.enable_forwarding()

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class BridgePresent:
    """The tenant's bridge is up and forwards, with the gateway's address, its MAC and owner tag."""

    tenant_id: TenantId
    net: TenantNet
    name: str = "bridge_present"

    @property
    def address(self) -> str:
        return f"{self.net.gateway_ip}/24"

    @property
    def mac(self) -> str:
        return guest_mac(self.net.tenant_net_id, 1)

    @property
    def tag(self) -> str:
        return owner_tag(self.tenant_id)

    def done(self, host: Host) -> bool:
        bridge = host.links.bridge(self.net.bridge_name)
        return (
            bridge is not None
            and bridge.up
            and bridge.forwarding
            and bridge.addresses == {self.address}
            and bridge.mac == self.mac
            and bridge.owner_tag == self.tag
        )

    def apply(self, host: Host) -> None:
        host.links.put_bridge(
            self.net.bridge_name, address=self.address, mac=self.mac, owner_tag=self.tag
        )

    def undo(self, host: Host) -> None:
        if not host.links.ports(self.net.bridge_name):  # another guest may be on it by now
            host.links.delete(self.net.bridge_name)


@dataclass(frozen=True, slots=True)
class BridgeAbsent:
    """The tenant has no bridge."""

    net: TenantNet
    name: str = "bridge_absent"

    def done(self, host: Host) -> bool:
        return host.links.bridge(self.net.bridge_name) is None

    def apply(self, host: Host) -> None:
        host.links.delete(self.net.bridge_name)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class FirewallAbsent:
    """No rule of the tenant is left."""

    tenant_net_id: int
    name: str = "firewall_absent"

    def done(self, host: Host) -> bool:
        return self.tenant_net_id not in host.firewall.tenants()

    def apply(self, host: Host) -> None:
        host.firewall.remove(self.tenant_net_id)

    def undo(self, host: Host) -> None:
        pass
