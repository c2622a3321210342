"""The packet rules of tenants and guests in memory."""

from __future__ import annotations

from worker.model.names import net_id_of
from worker.ports import GuestRules, TenantRules


class FakeFirewall:
    """`ports.Firewall` without a kernel; `rules` and `guest_rules` may be arranged by a test."""

    def __init__(self) -> None:
        self.rules: dict[int, TenantRules] = {}
        self.guest_rules: dict[str, GuestRules] = {}

    def is_current(self, rules: TenantRules) -> bool:
        return self.rules.get(rules.tenant_net_id) == rules

    def put(self, rules: TenantRules) -> None:
        self.rules[rules.tenant_net_id] = rules

    def remove(self, tenant_net_id: int) -> None:
        self.rules.pop(tenant_net_id, None)
        for tap in self.guest_rules.copy():
            if net_id_of(tap) == tenant_net_id:
                del self.guest_rules[tap]

    def tenants(self) -> frozenset[int]:
        of_guests = map(net_id_of, self.guest_rules)
        return frozenset(self.rules).union(net_id for net_id in of_guests if net_id is not None)

    def guest_is_current(self, rules: GuestRules) -> bool:
        return self.guest_rules.get(rules.tap) == rules

    def put_guest(self, rules: GuestRules) -> None:
        self.guest_rules[rules.tap] = rules

    def remove_guest(self, tap: str) -> None:
        self.guest_rules.pop(tap, None)

    def guests(self) -> frozenset[str]:
        return frozenset(self.guest_rules)
