"""The packet rules of tenants and guests in memory."""

from __future__ import annotations

from worker.ports import GuestRules, TenantRules


class FakeFirewall:
    """`ports.Firewall` without a kernel; `rules` and `held` may be arranged by a test."""

    def __init__(self) -> None:
        self.rules: dict[int, TenantRules] = {}
        self.held: dict[str, GuestRules] = {}

    def stands(self, rules: TenantRules) -> bool:
        """See `ports.Firewall.stands`."""
        return self.rules.get(rules.tenant_net_id) == rules

    def put(self, rules: TenantRules) -> None:
        """See `ports.Firewall.put`."""
        self.rules[rules.tenant_net_id] = rules

    def remove(self, tenant_net_id: int) -> None:
        """See `ports.Firewall.remove`."""
        self.rules.pop(tenant_net_id, None)
        for tap in self.held.copy():
            if _net_id(tap) == tenant_net_id:
                del self.held[tap]

    def tenants(self) -> frozenset[int]:
        """See `ports.Firewall.tenants`."""
        return frozenset(self.rules) | frozenset(map(_net_id, self.held))

    def guest_stands(self, rules: GuestRules) -> bool:
        """See `ports.Firewall.guest_stands`."""
        return self.held.get(rules.tap) == rules

    def put_guest(self, rules: GuestRules) -> None:
        """See `ports.Firewall.put_guest`."""
        self.held[rules.tap] = rules

    def remove_guest(self, tap: str) -> None:
        """See `ports.Firewall.remove_guest`."""
        self.held.pop(tap, None)

    def guests(self) -> frozenset[str]:
        """See `ports.Firewall.guests`."""
        return frozenset(self.held)


def _net_id(tap: str) -> int:
    return int(tap.removeprefix("tn").partition("i")[0])
