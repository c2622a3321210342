"""Leftovers removed, each only after it was found to be one again, by whoever holds its lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, assert_never

from enqueue.requests import InstanceId
from worker.errors import HostdError
from worker.ledger.ledger import Ledger
from worker.model.names import InstanceRef, mapper_name
from worker.plans.settings import Settings
from worker.ports import Host
from worker.protocol import events
from worker.protocol.events import Kind
from worker.request.reserve import settle_instance
from worker.scheduling.locks import Locks
from worker.sweep.inventory import take_inventory
from worker.sweep.orphans import Orphan, Resource, orphans

log = logging.getLogger("hostd")

_REQUEST_ID: Final = "sweep"
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SweepContext:
    """What a removal works with.

    `unreconciled` are instances that hostd has yet to look at; `by` is who asked, for the events;
    `now_ms` is Unix time.
    """

    host: Host
    ledger: Ledger
    locks: Locks
    settings: Settings
    now_ms: Callable[[], int]
    by: str
    unreconciled: Callable[[], Collection[InstanceId]] = tuple

    def look(self) -> tuple[Orphan, ...]:
        """What is left over now.

        Raises:
            HostdError, OSError: something cannot be listed.
        """
        seen = take_inventory(
            self.host, self.ledger, self.settings.layout, unreconciled=tuple(self.unreconciled())
        )
        return orphans(seen.things, seen.record)


def sweep_instance(
    instance: InstanceId, due: dict[Key, float], context: SweepContext
) -> tuple[list[Orphan], list[str]]:
    """What was removed of what is `due` (key to seconds seen), and why the rest was not.

    The caller has the instance's turn, if hostd is the caller.

    Raises:
        HostdError, OSError: its lock was not to be had, or something cannot be listed.
    """
    with _locked(instance, due, context):
        return _removed(lambda one: one.thing.instance == instance, due, context)


def sweep_networks(due: dict[Key, float], context: SweepContext) -> tuple[list[Orphan], list[str]]:
    """As `sweep_instance`, for what no instance holds.

    Raises:
        HostdError, OSError: as there.
    """
    # Whoever builds a network, or gives a guest its address, has reserved it in the ledger before:
    # while this transaction lasts nobody, in whatever process, begins to.
    with context.ledger.transaction():
        return _removed(lambda one: one.thing.instance is None, due, context)


def _locked(
    instance: InstanceId, due: dict[Key, float], context: SweepContext
) -> AbstractContextManager[float]:
    tenants = {
        one.thing.ref.tenant_id for one in context.look() if one.key in due and one.thing.ref
    }
    if len(tenants) == 1:
        (tenant,) = tenants
        return context.locks.instance(tenant, instance, request_id=_REQUEST_ID)
    return context.locks.lone(instance, request_id=_REQUEST_ID)


def _removed(
    wanted: Callable[[Orphan], bool], due: dict[Key, float], context: SweepContext
) -> tuple[list[Orphan], list[str]]:
    found = [one for one in context.look() if wanted(one)]
    problems = []
    for orphan in (one for one in found if one.key in due):
        try:
            _remove(orphan.thing, found, context)
        except (HostdError, OSError) as error:
            problems.append(f"{orphan.thing.kind.value} {orphan.thing.name}: {error}")
    left = {one.key for one in context.look()}
    # A mount goes with its jail, a process with its control group, due or not.
    gone = [one for one in found if one.key not in left]
    if gone:
        news = [events.encode(event) for event in _swept_events(gone, due, context)]
        context.ledger.note(news, None, now_ms=context.now_ms())
    return gone, problems


def _remove(thing: Resource, found: list[Orphan], context: SweepContext) -> None:
    host, timeout_s = context.host, context.settings.kill_timeout_s
    match thing.kind:
        case Kind.VMM:
            if thing.ref is not None:
                host.vmm.kill(thing.ref, timeout_s=timeout_s)
            host.cgroups.kill(_instance(thing), timeout_s=timeout_s)
        case Kind.JAIL | Kind.MOUNT:
            host.vmm.remove_jail(_ref(thing))
        case Kind.MAPPER:
            host.disks.close_crypt(mapper_name(_ref(thing)))
        case Kind.TAP | Kind.BRIDGE:
            host.links.delete(thing.name)
        case Kind.GUEST_RULES:
            host.firewall.remove_guest(thing.name)
        case Kind.CGROUP:
            host.cgroups.kill(_instance(thing), timeout_s=timeout_s)
            host.cgroups.remove(_instance(thing))
        case Kind.SECRETS:
            host.disks.remove(host.disks.secrets_path(_instance(thing)))
        case Kind.IMAGE:
            host.images.tidy(_ref(thing))
        case Kind.RESERVATION:
            _release(thing, found, context)
        case Kind.RULES:
            assert thing.net_id is not None  # noqa: S101  the survey names it
            host.firewall.remove(thing.net_id)
        case _:
            assert_never(thing.kind)


def _release(thing: Resource, found: list[Orphan], context: SweepContext) -> None:
    """Address and quota are free, once nothing else of the instance is left."""
    instance = _instance(thing)
    keys = {one.key for one in found if one.thing.kind is not Kind.RESERVATION}
    if any(one.key in keys for one in context.look()):
        return
    for kind, key, owner in context.ledger.reservations():
        if (kind, key) == ("instance", instance):
            tenant, _, pool = owner.partition("/")
            ref = InstanceRef(tenant, pool, instance)  # type: ignore[arg-type]  # as it was reserved
            settle_instance(context.ledger, ref, "destroyed")


def _swept_events(
    gone: list[Orphan], due: dict[Key, float], context: SweepContext
) -> Iterator[events.Event]:
    for orphan in gone:
        thing = orphan.thing
        log.warning(
            "swept %s %s (%s), seen for %.0f s: %s",
            thing.kind.value, thing.name, thing.proof, due.get(orphan.key, 0.0), orphan.why,
        )  # fmt: skip
        yield events.LeftoverSwept(
            at_ms=context.now_ms(),
            kind=thing.kind.value,
            name=thing.name,
            why=orphan.why,
            by=context.by,
            seen_s=round(due.get(orphan.key, 0.0), 3),
            instance_id=thing.instance,
            tenant_id=thing.ref.tenant_id if thing.ref else thing.tenant,
        )


def _instance(thing: Resource) -> InstanceId:
    assert thing.instance is not None  # noqa: S101  the survey names it
    return thing.instance


def _ref(thing: Resource) -> InstanceRef:
    assert thing.ref is not None  # noqa: S101  the survey names it
    return thing.ref
