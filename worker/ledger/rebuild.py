"""Rebuilds the ledger's reservations and statuses from what is on the host.

Normally net ids, subnets, addresses, instance ids and quota are read from the ledger alone
(`worker.request.reserve`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Final

from enqueue.documents import InstanceDoc, InstanceNet, is_up
from enqueue.requests import TenantNet
from worker.errors import HostdError
from worker.ledger.instances import Change
from worker.ledger.ledger import Ledger
from worker.ledger.reservations import Kind
from worker.model.names import OWNER_PREFIX, InstanceRef, parse_bridge, parse_tap
from worker.ports import Host, Records

TOUCHED: Final = ("running", "warm", "sleeping", "stopped")


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The instances by status, the reservations by kind, and what could not be read."""

    instances: Mapping[str, int]
    reservations: Mapping[str, int]
    problems: tuple[str, ...]


def traces_of_earlier_run(host: Host) -> tuple[str, ...]:
    """Instances and devices that an earlier hostd made; empty on a fresh host."""
    refs = [str(ref) for ref in host.records.instances() if _is_touched(host, ref)]
    return (*refs, *sorted(host.links.owned()))


def instances_with_history(records: Records) -> tuple[str, ...]:
    """Instances whose record was written by a hostd."""
    return tuple(str(ref) for ref in records.instances() if _status(records, ref) in TOUCHED)


def _status(records: Records, ref: InstanceRef) -> str | None:
    try:
        doc = records.instance(ref)
    except HostdError:
        return None
    return doc.fields.status if doc else None


def _is_touched(host: Host, ref: InstanceRef) -> bool:
    if _status(host.records, ref) in TOUCHED:
        return True
    return host.vmm.pid(ref) is not None or host.images.has_files(ref)


def rebuild_from_host(host: Host, ledger: Ledger, *, now_ms: int) -> Rebuilt:
    """Replaces the ledger's instances and reservations by those of the host."""
    with ledger.transaction():
        ledger.reservations.clear()
        ledger.instances.clear()
        rebuild = _Rebuild(ledger, host, now_ms)
        for name, owner_tag in sorted(host.links.owned().items()):
            rebuild.bridge(name, owner_tag)
        for ref in host.records.instances():
            rebuild.instance(ref)
        reserved = ledger.reservations.count_by_kind()
    return Rebuilt(dict(rebuild.statuses), reserved, tuple(rebuild.problems))


@dataclass(slots=True)
class _Rebuild:
    ledger: Ledger
    host: Host
    now_ms: int
    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def bridge(self, name: str, owner_tag: str) -> None:
        """Reserves the net id and the subnets of a tenant's bridge."""
        net_id = parse_bridge(name)
        bridge = None if net_id is None else self.host.links.bridge(name)
        if bridge is None:
            return
        tenant = owner_tag.removeprefix(OWNER_PREFIX)
        self._reserve("net", str(net_id), tenant)
        for address in bridge.addresses:
            self._reserve("subnet", str(IPv4Interface(address).network), tenant)

    def instance(self, ref: InstanceRef) -> None:
        """Reserves what the instance has according to its record and its VMM."""
        try:
            doc = self.host.records.instance(ref)
        except HostdError as error:
            doc = None
            self.problems.append(f"{ref}: {error}")
        if doc is not None and doc.fields.status not in ("created", "ready"):
            self._put_status(ref, doc)
        if not _is_touched(self.host, ref):
            return
        self._reserve("instance", ref.instance_id, f"{ref.tenant_id}/{ref.pool_id}")
        self._place(ref, doc.fields.net if doc else None)
        lives = self.host.vmm.pid(ref) is not None
        if lives or (doc is not None and is_up(doc.fields.status)):
            self._quota(ref)

    def _put_status(self, ref: InstanceRef, doc: InstanceDoc) -> None:
        self.statuses[doc.fields.status] += 1
        change = Change(ref.instance_id, ref.tenant_id, ref.pool_id, doc.fields.status)
        self.ledger.instances.put(change, now_ms=self.now_ms)

    def _place(self, ref: InstanceRef, recorded: InstanceNet | None) -> None:
        """Reserves its address and the tenant's network: as recorded, else as its VMM was built."""
        spec = self.host.vmm.spec(ref)
        tap = recorded.tap_dev if recorded else spec.tap if spec else None
        found = parse_tap(tap) if tap else None
        net = self._tenant_net(ref)
        if found is not None:
            self._reserve("net", str(found[0]), ref.tenant_id)
            self._reserve("offset", f"{found[0]}/{found[1]}", ref.instance_id)
            if recorded is not None:
                subnet = IPv4Interface(f"{recorded.guest_ip}/{recorded.cidr}").network
                self._reserve("subnet", str(subnet), ref.tenant_id)
                return
        if net is not None:
            self._reserve("net", str(net.tenant_net_id), ref.tenant_id)
            self._reserve("subnet", net.ipv4_subnet, ref.tenant_id)

    def _tenant_net(self, ref: InstanceRef) -> TenantNet | None:
        try:
            tenant = self.host.records.tenant(ref.tenant_id)
        except HostdError as error:
            self.problems.append(f"tenant {ref.tenant_id}: {error}")
            return None
        return tenant.net if tenant else None

    def _quota(self, ref: InstanceRef) -> None:
        """Reserves what the guest was built with; the pool may have changed since."""
        spec = self.host.vmm.spec(ref)
        if spec is not None:
            self._reserve("quota", ref.instance_id, ref.tenant_id, spec.vcpus, spec.mem_mib)
            return
        try:
            pool = self.host.records.pool(ref.tenant_id, ref.pool_id)
        except HostdError as error:
            self.problems.append(f"pool {ref.tenant_id}/{ref.pool_id}: {error}")
            pool = None
        wanted = pool.instance_resources if pool else None
        vcpus, mem_mib = (wanted.vcpus, wanted.mem_mib) if wanted else (0, 0)
        self._reserve("quota", ref.instance_id, ref.tenant_id, vcpus, mem_mib)

    def _reserve(self, kind: Kind, key: str, owner: str, vcpus: int = 0, mem_mib: int = 0) -> None:
        known = self.ledger.reservations.reserve(kind, key, owner, vcpus=vcpus, mem_mib=mem_mib)
        if known != owner:
            self.problems.append(f"{kind} {key} is held by {known}, and {owner} claims it too")
