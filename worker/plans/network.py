"""Plans over a tenant's network.

Rules come before the bridge and go after it, so no bridge is ever up without its rules.
"""

from __future__ import annotations

from enqueue.requests import SetupNetwork, TeardownNetwork, TenantId, TenantNet
from worker.errors import Conflict
from worker.plans.facts import NetworkFacts
from worker.plans.plan import Plan
from worker.plans.settings import Settings
from worker.ports import TenantRules
from worker.steps.network import (
    BridgeAbsent,
    BridgePresent,
    FirewallAbsent,
    FirewallPresent,
    ForwardingOn,
)
from worker.steps.step import Step


def firewall_step(tenant_id: TenantId, net: TenantNet, settings: Settings) -> FirewallPresent:
    """The tenant's packet rules are in force."""
    rules = TenantRules(
        tenant_id=tenant_id,
        tenant_net_id=net.tenant_net_id,
        bridge=net.bridge_name,
        subnet=net.ipv4_subnet,
        gateway_ip=net.gateway_ip,
        uplink=settings.uplink,
        metadata_port=settings.metadata_port,
    )
    return FirewallPresent(rules)


def network_steps(tenant_id: TenantId, net: TenantNet, settings: Settings) -> tuple[Step, ...]:
    """The tenant's network is up."""
    firewall = firewall_step(tenant_id, net, settings)
    return (firewall, ForwardingOn(), BridgePresent(tenant_id, net))


def setup(request: SetupNetwork, facts: NetworkFacts, settings: Settings) -> Plan:
    """The tenant's network is up."""
    return Plan(network_steps(request.tenant_id, request.net, settings), "up")


def teardown(request: TeardownNetwork, facts: NetworkFacts, settings: Settings) -> Plan:
    """The tenant's network is gone.

    Raises:
        Conflict: `network_in_use`, naming the instances on the bridge.
    """
    if facts.attached:
        raise Conflict(
            "network_in_use",
            f"{request.net.bridge_name} is in use by {', '.join(facts.attached)}",
            hint="stop or destroy these instances first",
        )
    return Plan((BridgeAbsent(request.net), FirewallAbsent(request.net.tenant_net_id)), "down")
