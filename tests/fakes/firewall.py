"""The packet rules of tenants and guests in memory."""

from __future__ import annotations

from worker.ports import GuestRules, TenantRules


class FakeFirewall:
    """`ports.Firewall` without a kernel; `rules` and `guest_rules` may be arranged by a test."""

    def __init__(self) -> None:
        self.rules: dict[int, TenantRules] = {}
        self.guest_rules: dict[str, GuestRules] = {}

    def is_current(self, rules: TenantRules) -> bool:
        """See `ports.Firewall.is_current`."""
        return self.rules.get(rules.tenant_net_id) == rules

    def put(self, rules: TenantRules) -> None:
        """See `ports.Firewall.put`."""
        self.rules[rules.tenant_net_id] = rules

    def remove(self, tenant_net_id: int) -> None:
        """See `ports.Firewall.remove`."""
        self.rules.pop(tenant_net_id, None)
        for tap in self.guest_rules.copy():
            if _net_id(tap) == tenant_net_id:
                del self.guest_rules[tap]

    def tenants(self) -> frozenset[int]:
        """See `ports.Firewall.tenants`."""
        return frozenset(self.rules) | frozenset(map(_net_id, self.guest_rules))

    def guest_is_current(self, rules: GuestRules) -> bool:
        """See `ports.Firewall.guest_is_current`."""
        return self.guest_rules.get(rules.tap) == rules

    def put_guest(self, rules: GuestRules) -> None:
        """See `ports.Firewall.put_guest`."""
        self.guest_rules[rules.tap] = rules

    def remove_guest(self, tap: str) -> None:
        """See `ports.Firewall.remove_guest`."""
        self.guest_rules.pop(tap, None)

    def guests(self) -> frozenset[str]:
        """See `ports.Firewall.guests`."""
        return frozenset(self.guest_rules)


def _net_id(tap: str) -> int:
    return int(tap.removeprefix("tn").partition("i")[0])
