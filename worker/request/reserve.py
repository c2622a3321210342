"""Reservations: net ids, subnets, addresses, instance ids and quota, held in the ledger.

They are taken in one transaction before anything is planned, and settled in the transaction that
decides the request, so that two requests can never be promised the same thing.
"""

from __future__ import annotations

import sqlite3
from ipaddress import IPv4Network

from enqueue.documents import TenantDoc, is_up
from enqueue.requests import NetworkRequest, TenantNet, bridge_name
from worker.errors import Conflict, Rejected
from worker.ledger.database import Durability
from worker.ledger.ledger import Ledger
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
    """The net id and the subnet are the tenant's.

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
    with ledger.transaction() as db:
        for kind, key in (("net", str(net.tenant_net_id)), ("subnet", net.ipv4_subnet)):
            _check_owner(db, kind, key, request.tenant_id)
            if network_operation(request).reserves:
                _hold(db, kind, key, request.tenant_id)


def reserve_instance(
    action: Action, facts: InstanceFacts, ledger: Ledger, settings: Settings
) -> Place | None:
    """The instance's place, if it has or needs one, and its share of the tenant's quota.

    Raises:
        Conflict: `unknown_tenant`, `unknown_pool`, `instance_id_taken`, `network_taken`,
            `no_address`, `quota`.
        Rejected: `subnet`, `uid_range`.
    """
    with ledger.transaction(survives=Durability.KILL) as db:
        owner = f"{facts.ref.tenant_id}/{facts.ref.pool_id}"
        _check_owner(db, "instance", facts.ref.instance_id, owner)
        if facts.instance is not None:
            _hold(db, "instance", facts.ref.instance_id, owner)
        if not action.needs_place:
            return known_place(db, facts)
        tenant = _tenant(facts)
        _acceptable(tenant.net, settings)
        for kind, key in (
            ("net", str(tenant.net.tenant_net_id)),
            ("subnet", tenant.net.ipv4_subnet),
        ):
            _check_owner(db, kind, key, tenant.tenant_id)
            _hold(db, kind, key, tenant.tenant_id)
        place = known_place(db, facts) or _new_place(db, facts.ref, tenant)
        if action.needs_quota:
            _take_quota(db, facts, tenant)
        return place


def known_place(db: sqlite3.Connection, facts: InstanceFacts) -> Place | None:
    """The place that the instance holds, or that its record gives it and is free.

    Raises:
        Conflict: `no_address`, the recorded address is held by another instance.
    """
    net = facts.tenant.net if facts.tenant else _held_net(db, facts.ref.tenant_id)
    if net is None:
        return None
    offsets = _offsets(db, net)
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
    _hold(db, "offset", f"{net.tenant_net_id}/{offset}", facts.ref.instance_id)
    return place


def settle_instance(ledger: Ledger, ref: InstanceRef, status: str | None) -> None:
    """Quota is held exactly by what runs; a destroyed instance holds nothing.

    What another tenant's instance of the same id holds is left alone.
    """
    with ledger.transaction() as db:
        mine = db.execute(
            "SELECT 1 FROM reservations WHERE kind = 'instance' AND key = ? AND owner = ?",
            (ref.instance_id, f"{ref.tenant_id}/{ref.pool_id}"),
        ).fetchone()
        if mine is None:
            return
        if not is_up(status):
            db.execute(
                "DELETE FROM reservations WHERE kind = 'quota' AND key = ?", (ref.instance_id,)
            )
        if status == "destroyed":
            db.execute(
                "DELETE FROM reservations WHERE (kind = 'instance' AND key = ?)"
                " OR (kind = 'offset' AND owner = ?)",
                (ref.instance_id, ref.instance_id),
            )


def release_network(ledger: Ledger, net: TenantNet) -> None:
    """The net id and the subnet are free."""
    with ledger.transaction() as db:
        for kind, key in (("net", str(net.tenant_net_id)), ("subnet", net.ipv4_subnet)):
            db.execute("DELETE FROM reservations WHERE kind = ? AND key = ?", (kind, key))


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


def _check_owner(db: sqlite3.Connection, kind: str, key: str, owner: str) -> None:
    row = db.execute(
        "SELECT owner FROM reservations WHERE kind = ? AND key = ?", (kind, key)
    ).fetchone()
    if row is None or row[0] == owner:
        return
    if kind == "instance":
        raise Conflict(
            "instance_id_taken",
            f"{key} is {row[0]}'s on this host",
            hint="instance ids are unique on a host: choose another",
        )
    raise Conflict(
        "network_taken",
        f"{kind} {key} is held by tenant {row[0]}",
        hint="choose another, or tear that tenant's network down",
    )


def _hold(db: sqlite3.Connection, kind: str, key: str, owner: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO reservations (kind, key, owner) VALUES (?, ?, ?)",
        (kind, key, owner),
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


def _held_net(db: sqlite3.Connection, tenant_id: str) -> TenantNet | None:
    """The network that the tenant holds, where its document cannot say."""
    held = dict(
        db.execute(
            "SELECT kind, key FROM reservations WHERE owner = ? AND kind IN ('net', 'subnet')",
            (tenant_id,),
        ).fetchall()
    )
    if len(held) != 2:
        return None
    net_id, subnet = int(held["net"]), IPv4Network(held["subnet"])
    return TenantNet(
        tenant_net_id=net_id,
        ipv4_subnet=str(subnet),
        gateway_ip=str(subnet.network_address + 1),
        bridge_name=bridge_name(net_id),
    )


def _offsets(db: sqlite3.Connection, net: TenantNet) -> dict[int, str]:
    """Who holds which address of the network."""
    rows = db.execute(
        "SELECT key, owner FROM reservations WHERE kind = 'offset' AND key LIKE ?",
        (f"{net.tenant_net_id}/%",),
    )
    return {int(key.partition("/")[2]): owner for key, owner in rows}


def _new_place(db: sqlite3.Connection, ref: InstanceRef, tenant: TenantDoc) -> Place:
    taken = _offsets(db, tenant.net)
    for offset in range(FIRST_OFFSET, LAST_OFFSET + 1):
        if offset not in taken:
            _hold(db, "offset", f"{tenant.net.tenant_net_id}/{offset}", ref.instance_id)
            return Place(tenant.net, offset)
    raise Conflict("no_address", f"{tenant.net.ipv4_subnet} has no free address left")


def _take_quota(db: sqlite3.Connection, facts: InstanceFacts, tenant: TenantDoc) -> None:
    """Running and warm instances count, this one apart.

    Raises:
        Conflict: `quota`, naming what is exceeded, by how much.
    """
    assert facts.pool is not None  # noqa: S101  `_tenant` has proven it
    wanted = facts.pool.instance_resources
    count, vcpus, mem_mib = db.execute(
        "SELECT COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(mem_mib), 0) FROM reservations"
        " WHERE kind = 'quota' AND owner = ? AND key != ?",
        (tenant.tenant_id, facts.ref.instance_id),
    ).fetchone()
    quotas = tenant.quotas
    for name, used, more, limit in (
        ("running instances", count, 1, quotas.max_running),
        ("vCPUs", vcpus, wanted.vcpus, quotas.max_vcpus),
        ("MiB of memory", mem_mib, wanted.mem_mib, quotas.max_mem_mib),
    ):
        if used + more > limit:
            raise Conflict(
                "quota",
                f"tenant {tenant.tenant_id} has {used} of {limit} {name}; {more} more is too many",
                hint="stop or sleep another instance, or raise the quota in tenant.json",
            )
    db.execute(
        "INSERT OR REPLACE INTO reservations (kind, key, owner, vcpus, mem_mib)"
        " VALUES ('quota', ?, ?, ?, ?)",
        (facts.ref.instance_id, tenant.tenant_id, wanted.vcpus, wanted.mem_mib),
    )
