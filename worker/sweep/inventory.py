"""Lists the resources that carry hostd's owner tag, and what is on record, for a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from enqueue.documents import Status, is_up
from enqueue.requests import INSTANCE_PATTERN, InstanceId, TenantId, TenantNet
from worker.errors import HostdError
from worker.ledger.ledger import Ledger
from worker.model.layout import Layout
from worker.model.names import (
    OWNER_PREFIX,
    InstanceRef,
    mapper_name,
    net_id_of,
    owner_tag,
    parse_bridge,
    tap_name,
)
from worker.ports import Host
from worker.protocol.events import Kind
from worker.sweep.orphans import InstanceStatus, Records, Resource


@dataclass(frozen=True, slots=True)
class Inventory:
    """Resources with an owner tag, what is on record, and networks that have a bridge."""

    resources: tuple[Resource, ...]
    records: Records
    bridged: Mapping[TenantId, TenantNet]


@dataclass(frozen=True, slots=True)
class _Reserved:
    """Reservations: owners of instance ids, instances of TAP names, tenants of net ids."""

    instances: Mapping[InstanceId, str]
    taps: Mapping[str, InstanceId]
    networks: Mapping[int, TenantId]


def take_inventory(
    host: Host, ledger: Ledger, layout: Layout, *, unreconciled: Iterable[InstanceId] = ()
) -> Inventory:
    """Lists everything once; what requests change meanwhile is read again before a removal.

    Raises:
        HostdError, OSError: something cannot be listed.
    """
    began_at, busy_before = ledger.requests.last_row(), ledger.requests.busy()
    skipped = frozenset(map(InstanceId, busy_before[0])) | frozenset(unreconciled)
    tags, guests, groups = host.links.owned(), host.firewall.guests(), host.cgroups.instances()
    jails, held = host.vmm.jails(), _held(ledger)
    networks, unreadable = _networks(host)
    on_record = {net.tenant_net_id: tenant for tenant, net in networks.items()}
    seen = _Snapshot(tags, guests, groups, jails, skipped)
    instances = {ref.instance_id: _status(ref, host, seen) for ref in host.records.instances()}
    # What a request worked on during the listing may have been listed half before, half after.
    busy, busy_tenants = map(frozenset.union, busy_before, ledger.requests.busy(since_row=began_at))
    records = Records(
        instances=instances,
        # A network set up before its tenant's document was written is reserved in the ledger.
        networks={**held.networks, **on_record},
        busy=frozenset(map(InstanceId, busy)) | skipped,
        busy_tenants=frozenset(map(TenantId, busy_tenants)),
        unreadable=unreadable,
    )
    resources = (
        *_processes(host, seen, instances),
        *_in_directories(host, jails),
        *_opened(host, layout),
        *_of_instances(host, seen),
        *_of_networks(host, seen, held, records),
        *_reserved(held),
    )
    bridged = {tenant: net for tenant, net in networks.items() if net.bridge_name in tags}
    return Inventory(resources, records, bridged)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What was listed; `busy` instances are not checked for a VMM: a start may be under way."""

    tags: Mapping[str, str]
    guests: frozenset[str]
    groups: frozenset[InstanceId]
    jails: frozenset[InstanceRef]
    busy: frozenset[InstanceId]

    def has_vmm(self, ref: InstanceRef, host: Host) -> bool:
        """Whether one lives in the instance's jail."""
        asked = ref in self.jails and ref.instance_id not in self.busy
        return asked and host.vmm.pid(ref) is not None


def _networks(host: Host) -> tuple[dict[TenantId, TenantNet], bool]:
    networks, unreadable = {}, False
    for tenant in host.records.tenant_ids():
        try:
            doc = host.records.tenant(tenant)
        except HostdError:
            unreadable = True
            continue
        if doc is not None:
            networks[tenant] = doc.net
    return networks, unreadable


def _status(ref: InstanceRef, host: Host, seen: _Snapshot) -> InstanceStatus:
    try:
        doc = host.records.instance(ref)
    except HostdError:
        return InstanceStatus(ref, None)
    if doc is None:
        return InstanceStatus(ref, None)
    status, tap = doc.fields.status, doc.fields.net.tap_dev if doc.fields.net else None
    vmm = seen.has_vmm(ref, host)
    return InstanceStatus(
        ref,
        status,
        tap,
        vmm=vmm,
        rules=tap is None or tap in seen.guests,
        missing=_missing(ref, tap, status, seen),
    )


def _missing(ref: InstanceRef, tap: str | None, status: Status, seen: _Snapshot) -> str | None:
    if not is_up(status):
        return None
    if tap is not None and seen.tags.get(tap) != owner_tag(ref.instance_id):
        return "tap"
    return "cgroup" if ref.instance_id not in seen.groups else None


def _processes(
    host: Host, seen: _Snapshot, instances: Mapping[InstanceId, InstanceStatus]
) -> Iterator[Resource]:
    """Processes in a control group, or on record in a jail, of no instance that may have them."""
    refs = {ref.instance_id: ref for ref in seen.jails}
    for instance in sorted(seen.groups | refs.keys()):
        known, ref = instances.get(instance), refs.get(instance)
        if known is not None and known.status != "destroyed":
            continue
        pids = sorted(host.cgroups.pids(instance)) if instance in seen.groups else []
        if pids or (ref is not None and seen.has_vmm(ref, host)):
            proof = f"processes of its control group, {pids}" if pids else "on record in its jail"
            yield Resource(Kind.VMM, instance, proof, instance, ref)


def _in_directories(host: Host, jails: frozenset[InstanceRef]) -> Iterator[Resource]:
    for kind, refs, proof in (
        (Kind.JAIL, jails, "its place, and what a start leaves there"),
        (Kind.MOUNT, host.vmm.mounts(), "it is mounted in the instance's jail"),
        (Kind.IMAGE, host.images.leftovers(), "its place, and its name"),
    ):
        for ref in refs:
            yield Resource(kind, str(ref), proof, ref.instance_id, ref)


def _opened(host: Host, layout: Layout) -> Iterator[Resource]:
    """A device counts only if the container below it is where hostd would open it from."""
    for name, path in host.disks.open_containers().items():
        ref = layout.owner(path)
        if ref is None or mapper_name(ref) != name or layout.volumes(ref) not in path.parents:
            continue
        yield Resource(Kind.MAPPER, name, f"opened from {path}", ref.instance_id, ref)


def _of_instances(host: Host, seen: _Snapshot) -> Iterator[Resource]:
    for name, tag in seen.tags.items():
        net_id = net_id_of(name)
        instance = _instance_of(tag)
        if net_id is not None and instance is not None:
            yield Resource(Kind.TAP, name, f"alias {tag}", instance, net_id=net_id)
    for instance in seen.groups:
        yield Resource(Kind.CGROUP, instance, "its place, below hostd's group", instance)
    for instance in host.disks.secrets():
        yield Resource(Kind.SECRETS, instance, "its place, in hostd's memory", instance)


def _of_networks(
    host: Host, seen: _Snapshot, held: _Reserved, records: Records
) -> Iterator[Resource]:
    instances, networks = records.instances, records.networks
    taps = {one.tap: i for i, one in instances.items() if one.tap and one.status != "destroyed"}
    for tap in seen.guests:
        owner = _instance_of(seen.tags.get(tap, "")) or held.taps.get(tap) or taps.get(tap)
        net_id = net_id_of(tap)
        tenant = networks.get(net_id) if net_id is not None else None
        proof = "an element of hostd's own table"
        yield Resource(Kind.GUEST_RULES, tap, proof, owner, tenant=tenant, net_id=net_id)
    for name, tag in seen.tags.items():
        net_id = parse_bridge(name)
        # A bridge with something on it is in use, whatever put it there.
        if net_id is not None and not host.links.ports(name):
            tenant = TenantId(tag.removeprefix(OWNER_PREFIX))
            yield Resource(Kind.BRIDGE, name, f"alias {tag}", tenant=tenant, net_id=net_id)
    bridges = {parse_bridge(name) for name in seen.tags}
    for net_id in host.firewall.tenants() - bridges - {net_id_of(tap) for tap in seen.guests}:
        proof = "elements of hostd's own tables"
        tenant = networks.get(net_id)
        yield Resource(Kind.RULES, str(net_id), proof, tenant=tenant, net_id=net_id)


def _reserved(held: _Reserved) -> Iterator[Resource]:
    for instance, owner in held.instances.items():
        yield Resource(Kind.RESERVATION, instance, f"the ledger, for {owner}", instance)


def _held(ledger: Ledger) -> _Reserved:
    owners = ledger.reservations.owners
    return _Reserved(
        {InstanceId(key): owner for key, owner in owners("instance").items()},
        {_tap(key): InstanceId(owner) for key, owner in owners("offset").items()},
        {int(key): TenantId(owner) for key, owner in owners("net").items()},
    )


def _instance_of(tag: str) -> InstanceId | None:
    name = tag.removeprefix(OWNER_PREFIX)
    return InstanceId(name) if name != tag and re.match(INSTANCE_PATTERN, name) else None


def _tap(key: str) -> str:
    net_id, _, offset = key.partition("/")
    return tap_name(int(net_id), int(offset))
