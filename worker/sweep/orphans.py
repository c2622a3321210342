"""Finds orphaned resources, and records that disagree with the host.  Pure.

A resource is an orphan if it carries hostd's owner tag and belongs to nothing on record, or to an
instance that does not run.  Resources that an unfinished request works on, and resources that hostd
cannot read, are never orphans.  An instance with a VMM that its record does not know is reconciled,
not swept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from enqueue.documents import Status, is_up
from enqueue.requests import InstanceId, TenantId
from worker.model.names import InstanceRef, net_id_of
from worker.protocol.events import Kind

_ORDER: Final = {kind: number for number, kind in enumerate(Kind)}
_OF_NETWORKS: Final = (Kind.BRIDGE, Kind.RULES)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that carries hostd's owner tag; `proof` is the tag.

    `instance` is its owner, `ref` the instance in whose directory it is, `net_id` its network.
    """

    kind: Kind
    name: str
    proof: str
    instance: InstanceId | None = None
    ref: InstanceRef | None = None
    tenant: TenantId | None = None
    net_id: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """An instance on record; `status` is None if its record cannot be read.

    `vmm` says whether its VMM lives, `missing` which part of a living guest's confinement is gone.
    """

    ref: InstanceRef
    status: Status | None
    tap: str | None = None
    vmm: bool = False
    rules: bool = True
    missing: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether the record says that a guest runs."""
        return is_up(self.status)


@dataclass(frozen=True, slots=True)
class Records:
    """What is on record.

    `networks` has the tenant of each net id, `busy` the instances that requests or reconciling work
    on; `unreadable` says whether any tenant's document could not be read.
    """

    instances: Mapping[InstanceId, InstanceStatus] = field(default_factory=dict)
    networks: Mapping[int, TenantId] = field(default_factory=dict)
    busy: frozenset[InstanceId] = frozenset()
    busy_tenants: frozenset[TenantId] = frozenset()
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """A resource that is left over, and the reason."""

    resource: Resource
    why: str

    @property
    def key(self) -> tuple[str, str]:
        """What identifies it from one sweep to the next."""
        return self.resource.kind.value, self.resource.name


class Inconsistency(Enum):
    """How a record and its machine disagree."""

    NO_VMM = "its record says that it runs, but no VMM lives"
    STRAY_VMM = "a VMM lives that its record does not know"
    NO_RULES = "its packet rules are missing"


def orphans(resources: Iterable[Resource], records: Records) -> tuple[Orphan, ...]:
    """The orphans among these resources, in the order of removal."""
    in_use = frozenset(_networks_in_use(records))
    found = [(resource, _why(resource, records, in_use)) for resource in resources]
    left = [Orphan(resource, why) for resource, why in found if why is not None]
    return tuple(sorted(left, key=lambda one: (_ORDER[one.resource.kind], one.resource.name)))


def inconsistencies(records: Records) -> Iterator[tuple[InstanceRef, Inconsistency]]:
    """The records that reconciling can correct."""
    for id_, instance in records.instances.items():
        if id_ in records.busy or instance.status in (None, "destroyed"):
            continue
        if not instance.is_up and instance.vmm:
            yield instance.ref, Inconsistency.STRAY_VMM
        elif instance.is_up and not instance.vmm:
            yield instance.ref, Inconsistency.NO_VMM
        elif instance.is_up and not instance.rules:
            yield instance.ref, Inconsistency.NO_RULES


def missing_confinement(records: Records) -> Iterator[tuple[InstanceRef, str]]:
    """Guests that run without a part of their confinement, and which part is missing."""
    for id_, instance in records.instances.items():
        missing = instance.missing if instance.is_up and instance.vmm else None
        if missing is not None and id_ not in records.busy:
            yield instance.ref, missing


def _why(resource: Resource, records: Records, in_use: frozenset[int]) -> str | None:
    """Why the resource is left over; None if it is not."""
    if resource.tenant in records.busy_tenants and resource.instance is None:
        return None
    if resource.kind in _OF_NETWORKS:
        known = records.unreadable or resource.net_id in in_use
        return None if known else f"no tenant on record has net id {resource.net_id}"
    if resource.instance is None:
        return None if resource.net_id is None or records.unreadable else "no instance holds it"
    if resource.instance in records.busy:
        return None
    instance = records.instances.get(resource.instance)
    if instance is None:
        return "its instance is not on record"
    return None if is_other_tenants(resource, instance) else leftover_reason(resource, instance)


def leftover_reason(resource: Resource, instance: InstanceStatus) -> str | None:
    """Why a resource of an instance on record is left over."""
    match instance.status:
        case None:
            return None
        case "destroyed":
            return "its instance is destroyed"
        case "running" | "warm":
            if resource.kind is Kind.IMAGE and instance.vmm:
                return "no request is making it"
            stray = resource.kind in (Kind.TAP, Kind.GUEST_RULES) and instance.tap is not None
            return (
                "its instance has another TAP" if stray and resource.name != instance.tap else None
            )
        case "created" | "ready" | "stopped" | "sleeping":
            if instance.vmm or resource.kind is Kind.RESERVATION:
                return None
            return f"its instance is {instance.status}"
        case _:
            assert_never(instance.status)


def is_other_tenants(resource: Resource, instance: InstanceStatus) -> bool:
    """Whether it is in another tenant's directory for the same id: that is left to a person."""
    return resource.ref is not None and resource.ref != instance.ref


def _networks_in_use(records: Records) -> Iterator[int]:
    """Net ids of tenants on record, and of instances that are not destroyed."""
    yield from records.networks
    for instance in records.instances.values():
        net_id = net_id_of(instance.tap) if instance.tap else None
        if net_id is not None and instance.status != "destroyed":
            yield net_id
