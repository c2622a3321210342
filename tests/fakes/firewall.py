"""Tenants' packet rules in memory."""

from __future__ import annotations

from worker.ports import TenantRules


class FakeFirewall:
    """`ports.Firewall` without a kernel; `rules` may be arranged by a test."""

    def __init__(self) -> None:
        self.rules: dict[int, TenantRules] = {}

    def stands(self, rules: TenantRules) -> bool:
        """See `ports.Firewall.stands`."""
        return self.rules.get(rules.tenant_net_id) == rules

    def put(self, rules: TenantRules) -> None:
        """See `ports.Firewall.put`."""
        self.rules[rules.tenant_net_id] = rules

    def remove(self, tenant_net_id: int) -> None:
        """See `ports.Firewall.remove`."""
        self.rules.pop(tenant_net_id, None)

    def tenants(self) -> frozenset[int]:
        """See `ports.Firewall.tenants`."""
        return frozenset(self.rules)
