"""Reservations: net ids, subnets, addresses, instance ids and quota, held in the ledger.

They are reserved in one transaction before anything is planned, and released in the transaction
that decides the request, so that two requests never get the same thing.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from enqueue.documents import TenantDoc
from enqueue.requests import NetworkRequest, TenantId, TenantNet
from worker.errors import Conflict, Rejected
from worker.ledger.database import Durability
from worker.ledger.ledger import Ledger
from worker.ledger.reservations import Reservations
from worker.linux.subids import first_overlap
from worker.model.names import FIRST_OFFSET, LAST_OFFSET, InstanceRef, jail_uid
from worker.plans.action import Action
from worker.plans.facts import InstanceFacts, NetworkFacts
from worker.plans.guest_spec import Place
from worker.plans.operations import network_operation
from worker.plans.settings import Settings


def reserve_network(
    request: NetworkRequest, facts: NetworkFacts, ledger: Ledger, settings: Settings
) -> None:
    """Reserves the net id and the subnet for the tenant.

    Raises:
        Rejected: `subnet`, outside the host's supernet; `uid_range`, its jails' uids are taken.
        Conflict: `net_mismatch`, tenant.json says otherwise; `network_taken`.
    """
    net = request.net
    _acceptable(net, settings)
    if facts.tenant is not None and facts.tenant.net != net:
        raise Conflict(
            "net_mismatch",
            f"tenant.json of {request.tenant_id} says {facts.tenant.net}, the request {net}",
            hint="send the network that tenant.json has, or correct tenant.json",
        )
    with ledger.transaction():
        _check_network(ledger.reservations, net, request.tenant_id)
        if network_operation(request).reserves:
            _reserve_network(ledger.reservations, net, request.tenant_id)


def reserve_instance(
    action: Action, facts: InstanceFacts, ledger: Ledger, settings: Settings
) -> Place | None:
    """Reserves the instance's place, if it needs one, and its quota; returns the place.

    Raises:
        Conflict: `unknown_tenant`, `unknown_pool`, `instance_id_taken`, `network_taken`,
            `no_address`, `quota`.
        Rejected: `subnet`, `uid_range`.
    """
    reservations = ledger.reservations
    with ledger.transaction(durability=Durability.KILL):
        owner = f"{facts.ref.tenant_id}/{facts.ref.pool_id}"
        reservations.check_owner("instance", facts.ref.instance_id, owner)
        if facts.instance is not None:
            reservations.reserve("instance", facts.ref.instance_id, owner)
        if not action.needs_place:
            return known_place(reservations, facts)
        tenant = _tenant(facts)
        _acceptable(tenant.net, settings)
        _check_network(reservations, tenant.net, tenant.tenant_id)
        _reserve_network(reservations, tenant.net, tenant.tenant_id)
        place = known_place(reservations, facts) or _new_place(reservations, facts.ref, tenant)
        if action.needs_quota:
            _take_quota(reservations, facts, tenant)
        return place


def known_place(reservations: Reservations, facts: InstanceFacts) -> Place | None:
    """The place reserved for the instance, or the one in its record if that is free.

    Raises:
        Conflict: `no_address`, the recorded address is held by another instance.
    """
    net = facts.tenant.net if facts.tenant else reservations.network_of(facts.ref.tenant_id)
    if net is None:
        return None
    offsets = reservations.offsets(net)
    for offset, holder in offsets.items():
        if holder == facts.ref.instance_id:
            return Place(net, offset)
    recorded = facts.instance.fields.net if facts.instance else None
    if recorded is None:
        return None
    offset = int(recorded.guest_ip.rpartition(".")[2])
    place = Place(net, offset)
    if place.record() != {**place.record(), "tap_dev": recorded.tap_dev, "mac": recorded.mac}:
        return None  # an address of another network: it gets a new one
    if offset in offsets:
        raise Conflict(
            "no_address", f"{recorded.guest_ip} of {facts.ref} is held by {offsets[offset]}"
        )
    reservations.reserve("offset", f"{net.tenant_net_id}/{offset}", facts.ref.instance_id)
    return place


def _check_network(reservations: Reservations, net: TenantNet, tenant: TenantId) -> None:
    reservations.check_owner("net", str(net.tenant_net_id), tenant)
    reservations.check_owner("subnet", net.ipv4_subnet, tenant)


def _reserve_network(reservations: Reservations, net: TenantNet, tenant: TenantId) -> None:
    reservations.reserve("net", str(net.tenant_net_id), tenant)
    reservations.reserve("subnet", net.ipv4_subnet, tenant)


def _acceptable(net: TenantNet, settings: Settings) -> None:
    if not IPv4Network(net.ipv4_subnet).subnet_of(settings.supernet):
        raise Rejected(
            "subnet",
            f"{net.ipv4_subnet} is outside this host's supernet {settings.supernet}",
            hint="choose a /24 inside it, or widen [network] supernet",
        )
    first = jail_uid(settings.uid_base, net.tenant_net_id, FIRST_OFFSET)
    last = jail_uid(settings.uid_base, net.tenant_net_id, LAST_OFFSET)
    if (taken := first_overlap(first, last, settings.subordinate_files)) is not None:
        raise Rejected(
            "uid_range",
            f"net id {net.tenant_net_id} gives uids {first}..{last}, which meet {taken}",
            hint="choose another net id, or move [vmm] uid_base",
        )


def _tenant(facts: InstanceFacts) -> TenantDoc:
    if facts.tenant is None:
        raise Conflict(
            "unknown_tenant",
            f"tenant {facts.ref.tenant_id} has no tenant.json",
            hint="write it first",
        )
    if facts.pool is None:
        raise Conflict(
            "unknown_pool",
            f"pool {facts.ref.tenant_id}/{facts.ref.pool_id} has no pool.json",
            hint="write it first",
        )
    return facts.tenant


def _new_place(reservations: Reservations, ref: InstanceRef, tenant: TenantDoc) -> Place:
    taken = reservations.offsets(tenant.net)
    for offset in range(FIRST_OFFSET, LAST_OFFSET + 1):
        if offset not in taken:
            reservations.reserve("offset", f"{tenant.net.tenant_net_id}/{offset}", ref.instance_id)
            return Place(tenant.net, offset)
    raise Conflict("no_address", f"{tenant.net.ipv4_subnet} has no free address left")


def _take_quota(reservations: Reservations, facts: InstanceFacts, tenant: TenantDoc) -> None:
    """Reserves the instance's share of what the tenant's running instances may use.

    Raises:
        Conflict: `quota`, naming what is exceeded, by how much.
    """
    assert facts.pool is not None  # noqa: S101  `_tenant` has checked it
    wanted, quotas = facts.pool.instance_resources, tenant.quotas
    used = reservations.usage(facts.ref)
    for name, now, more, limit in (
        ("running instances", used.running, 1, quotas.max_running),
        ("vCPUs", used.vcpus, wanted.vcpus, quotas.max_vcpus),
        ("MiB of memory", used.mem_mib, wanted.mem_mib, quotas.max_mem_mib),
    ):
        if now + more > limit:
            raise Conflict(
                "quota",
                f"tenant {tenant.tenant_id} has {now} of {limit} {name}; {more} more is too many",
                hint="stop or sleep another instance, or raise the quota in tenant.json",
            )
    reservations.reserve_quota(facts.ref, vcpus=wanted.vcpus, mem_mib=wanted.mem_mib)
