"""Removes orphans, each only after a second check under its lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, assert_never

from enqueue.requests import InstanceId, PoolId, TenantId
from worker.errors import HostdError
from worker.ledger.ledger import Ledger
from worker.model.names import InstanceRef, mapper_name
from worker.plans.settings import Settings
from worker.ports import Host
from worker.protocol import events
from worker.protocol.events import Kind
from worker.scheduling.locks import Locks
from worker.sweep.inventory import take_inventory
from worker.sweep.orphans import Orphan, Resource, orphans

log = logging.getLogger("hostd")

_REQUEST_ID: Final = "sweep"
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What a removal needs.

    `unreconciled` are instances that hostd has not checked yet; `by` names the caller in events;
    `now_ms` is Unix time.
    """

    host: Host
    ledger: Ledger
    locks: Locks
    settings: Settings
    now_ms: Callable[[], int]
    by: str
    unreconciled: Callable[[], Collection[InstanceId]] = tuple

    def orphans(self) -> tuple[Orphan, ...]:
        """The orphans of now.

        Raises:
            HostdError, OSError: something cannot be listed.
        """
        seen = take_inventory(
            self.host, self.ledger, self.settings.layout, unreconciled=tuple(self.unreconciled())
        )
        return orphans(seen.resources, seen.records)


def sweep_instance(
    instance: InstanceId, due: dict[Key, float], context: SweepContext
) -> tuple[list[Orphan], list[str]]:
    """What was removed of what is `due` (key to seconds seen), and why the rest was not.

    hostd calls this in the instance's turn; an operator's command has none.

    Raises:
        HostdError, OSError: its lock could not be acquired, or something cannot be listed.
    """
    with _locked(instance, due, context):
        return _remove_wanted(lambda one: one.resource.instance == instance, due, context)


def sweep_networks(due: dict[Key, float], context: SweepContext) -> tuple[list[Orphan], list[str]]:
    """As `sweep_instance`, for what no instance holds.

    Raises:
        HostdError, OSError: as there.
    """
    # Every process that builds a network, or gives a guest its address, first reserves it in the
    # ledger: none can begin while this transaction lasts.
    with context.ledger.transaction():
        return _remove_wanted(lambda one: one.resource.instance is None, due, context)


def _locked(
    instance: InstanceId, due: dict[Key, float], context: SweepContext
) -> AbstractContextManager[float]:
    tenants = {
        one.resource.ref.tenant_id
        for one in context.orphans()
        if one.key in due and one.resource.ref
    }
    if len(tenants) == 1:
        (tenant,) = tenants
        return context.locks.instance(tenant, instance, request_id=_REQUEST_ID)
    return context.locks.lone(instance, request_id=_REQUEST_ID)


def _remove_wanted(
    wanted: Callable[[Orphan], bool], due: dict[Key, float], context: SweepContext
) -> tuple[list[Orphan], list[str]]:
    found = [one for one in context.orphans() if wanted(one)]
    problems = []
    for orphan in (one for one in found if one.key in due):
        try:
            _remove(orphan.resource, found, context)
        except (HostdError, OSError) as error:
            problems.append(f"{orphan.resource.kind.value} {orphan.resource.name}: {error}")
    left = {one.key for one in context.orphans()}
    # A mount goes with its jail, a process with its control group, due or not.
    removed = [one for one in found if one.key not in left]
    if removed:
        news = [events.encode(event) for event in _swept_events(removed, due, context)]
        context.ledger.record_events(news, None, now_ms=context.now_ms())
    return removed, problems


def _remove(resource: Resource, found: list[Orphan], context: SweepContext) -> None:
    host, timeout_s = context.host, context.settings.kill_timeout_s
    match resource.kind:
        case Kind.VMM:
            if resource.ref is not None:
                host.vmm.kill(resource.ref, timeout_s=timeout_s)
            host.cgroups.kill(_instance(resource), timeout_s=timeout_s)
        case Kind.JAIL | Kind.MOUNT:
            host.vmm.remove_jail(_ref(resource))
        case Kind.MAPPER:
            host.disks.close_crypt(mapper_name(_ref(resource)))
        case Kind.TAP | Kind.BRIDGE:
            host.links.delete(resource.name)
        case Kind.GUEST_RULES:
            host.firewall.remove_guest(resource.name)
        case Kind.CGROUP:
            host.cgroups.kill(_instance(resource), timeout_s=timeout_s)
            host.cgroups.remove(_instance(resource))
        case Kind.SECRETS:
            host.disks.remove(host.disks.secrets_path(_instance(resource)))
        case Kind.IMAGE:
            host.images.tidy(_ref(resource))
        case Kind.RESERVATION:
            _release(resource, found, context)
        case Kind.RULES:
            assert resource.net_id is not None  # noqa: S101  the inventory names it
            host.firewall.remove(resource.net_id)
        case _:
            assert_never(resource.kind)


def _release(resource: Resource, found: list[Orphan], context: SweepContext) -> None:
    """Address and quota are free, if nothing else of the instance is left."""
    instance = _instance(resource)
    keys = {one.key for one in found if one.resource.kind is not Kind.RESERVATION}
    if any(one.key in keys for one in context.orphans()):
        return
    reservations = context.ledger.reservations
    if (owner := reservations.owner("instance", instance)) is not None:
        tenant, _, pool = owner.partition("/")
        ref = InstanceRef(TenantId(tenant), PoolId(pool), instance)
        reservations.release_unneeded(ref, "destroyed")


def _swept_events(
    removed: list[Orphan], due: dict[Key, float], context: SweepContext
) -> Iterator[events.Event]:
    for orphan in removed:
        resource = orphan.resource
        log.warning(
            "swept %s %s (%s), seen for %.0f s: %s",
            resource.kind.value, resource.name, resource.proof, due.get(orphan.key, 0.0),
            orphan.why,
        )  # fmt: skip
        yield events.LeftoverSwept(
            at_ms=context.now_ms(),
            kind=resource.kind.value,
            name=resource.name,
            why=orphan.why,
            by=context.by,
            seen_s=round(due.get(orphan.key, 0.0), 3),
            instance_id=resource.instance,
            tenant_id=resource.ref.tenant_id if resource.ref else resource.tenant,
        )


def _instance(resource: Resource) -> InstanceId:
    assert resource.instance is not None  # noqa: S101  the inventory names it
    return resource.instance


def _ref(resource: Resource) -> InstanceRef:
    assert resource.ref is not None  # noqa: S101  the inventory names it
    return resource.ref
