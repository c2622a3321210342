"""What on this machine is left over, and which records lie.  Pure.

A thing is left over if it carries hostd's mark and belongs to nothing on record, or to an instance
that is at rest.  What an unfinished request is about, and what hostd cannot read, is nobody's
leftover.  An instance with a VMM that its record does not know is settled, not swept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, assert_never

from enqueue.documents import Status
from enqueue.requests import InstanceId, TenantId
from worker.model.names import InstanceRef, net_id_of
from worker.protocol.events import Kind

_ORDER: Final = {kind: number for number, kind in enumerate(Kind)}
_OF_NETWORKS: Final = (Kind.BRIDGE, Kind.RULES)


@dataclass(frozen=True, slots=True)
class Resource:
    """Something with hostd's mark; `proof` is the mark.

    `instance` is whose it is, `ref` in whose directory it lies, `net_id` of which network it is.
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
    """An instance on record; no status: its record cannot be read.

    `vmm` says whether one lives, `lacks` what a living guest's confinement misses.
    """

    ref: InstanceRef
    status: Status | None
    tap: str | None = None
    vmm: bool = False
    rules: bool = True
    lacks: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether a guest is to live."""
        return self.status in ("running", "warm")


@dataclass(frozen=True, slots=True)
class Records:
    """What is on record; `networks` has the tenant of each net id, `busy` what requests and
    settling are about, `unreadable` whether any tenant's document could not be read."""

    instances: Mapping[InstanceId, InstanceStatus] = field(default_factory=dict)
    networks: Mapping[int, TenantId] = field(default_factory=dict)
    busy: frozenset[InstanceId] = frozenset()
    busy_tenants: frozenset[TenantId] = frozenset()
    unreadable: bool = False


@dataclass(frozen=True, slots=True)
class Orphan:
    """A thing that is left over, and why it is one."""

    thing: Resource
    why: str

    @property
    def key(self) -> tuple[str, str]:
        """What it is told apart by from one sweep to the next."""
        return self.thing.kind.value, self.thing.name


class Inconsistency(Enum):
    """How a record and its machine disagree."""

    NO_VMM = "its record says that it runs, but no VMM lives"
    STRAY_VMM = "a VMM lives that its record does not know"
    NO_RULES = "its packet rules do not stand"


def orphans(things: Iterable[Resource], record: Records) -> tuple[Orphan, ...]:
    """What is left over, in the order of removal."""
    kept = frozenset(_networks_in_use(record))
    found = [(thing, _why(thing, record, kept)) for thing in things]
    left = [Orphan(thing, why) for thing, why in found if why is not None]
    return tuple(sorted(left, key=lambda one: (_ORDER[one.thing.kind], one.thing.name)))


def inconsistencies(record: Records) -> Iterator[tuple[InstanceRef, Inconsistency]]:
    """The records that a settlement can put right."""
    for instance, standing in record.instances.items():
        if instance in record.busy or standing.status in (None, "destroyed"):
            continue
        if not standing.is_up and standing.vmm:
            yield standing.ref, Inconsistency.STRAY_VMM
        elif standing.is_up and not standing.vmm:
            yield standing.ref, Inconsistency.NO_VMM
        elif standing.is_up and not standing.rules:
            yield standing.ref, Inconsistency.NO_RULES


def missing_confinement(record: Records) -> Iterator[tuple[InstanceRef, str]]:
    """Guests that run without a part of what confines them, and what they lack."""
    for instance, standing in record.instances.items():
        lacks = standing.lacks if standing.is_up and standing.vmm else None
        if lacks is not None and instance not in record.busy:
            yield standing.ref, lacks


def _why(thing: Resource, record: Records, kept: frozenset[int]) -> str | None:
    """Why the thing is left over; None if it is not."""
    if thing.tenant in record.busy_tenants and thing.instance is None:
        return None
    if thing.kind in _OF_NETWORKS:
        known = record.unreadable or thing.net_id in kept
        return None if known else f"no tenant on record has net id {thing.net_id}"
    if thing.instance is None:
        return None if thing.net_id is None or record.unreadable else "no instance holds it"
    if thing.instance in record.busy:
        return None
    standing = record.instances.get(thing.instance)
    if standing is None:
        return "its instance is not on record"
    return None if is_other_tenants(thing, standing) else leftover_reason(thing, standing)


def leftover_reason(thing: Resource, standing: InstanceStatus) -> str | None:
    """Why a thing of an instance on record is left over."""
    match standing.status:
        case None:
            return None
        case "destroyed":
            return "its instance is destroyed"
        case "running" | "warm":
            if thing.kind is Kind.IMAGE and standing.vmm:
                return "no request is making it"
            stray = thing.kind in (Kind.TAP, Kind.GUEST_RULES) and standing.tap is not None
            return "its instance has another TAP" if stray and thing.name != standing.tap else None
        case "created" | "ready" | "stopped" | "sleeping":
            if standing.vmm or thing.kind is Kind.RESERVATION:
                return None
            return f"its instance is {standing.status}"
        case _:
            assert_never(standing.status)


def is_other_tenants(thing: Resource, standing: InstanceStatus) -> bool:
    """Whether it lies with another tenant's instance of the same id: for a person to judge."""
    return thing.ref is not None and thing.ref != standing.ref


def _networks_in_use(record: Records) -> Iterator[int]:
    """Net ids of tenants on record, and of instances that are not gone for good."""
    yield from record.networks
    for standing in record.instances.values():
        net_id = net_id_of(standing.tap) if standing.tap else None
        if net_id is not None and standing.status != "destroyed":
            yield net_id
