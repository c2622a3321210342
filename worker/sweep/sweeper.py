"""The sweep that a running hostd makes at an interval, on its own thread.

It lists, counts, and submits stories, which wait for their turns behind all requests: they remove
orphans, reconcile instances and restore flushed packet rules.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Event
from typing import Final

from enqueue.requests import InstanceId, TenantId, TenantNet
from worker.errors import HostdError, LedgerError
from worker.model.names import InstanceRef
from worker.plans.network import firewall_step
from worker.protocol import events
from worker.protocol.events import Kind
from worker.request.context import Context
from worker.request.reconcile import reconcile_story
from worker.scheduling.turns import EXCLUSIVE, SHARED
from worker.scheduling.turns import Key as TurnKey
from worker.scheduling.unreconciled import Why
from worker.scheduling.waits import Turn, Wait
from worker.sweep.history import SweepHistory
from worker.sweep.inventory import Inventory, take_inventory
from worker.sweep.orphans import (
    Inconsistency,
    Orphan,
    Records,
    inconsistencies,
    missing_confinement,
    orphans,
)
from worker.sweep.removal import Key, SweepContext, sweep_instance, sweep_networks

log = logging.getLogger("hostd")

_REQUEST_ID: Final = "sweep"
_REASONS: Final = (HostdError, OSError)


@dataclass(slots=True)
class Sweeper:
    """Sweeps; `same_state` says whether the state directory is still the one swept before."""

    ctx: Context
    history: SweepHistory
    same_state: Callable[[], bool]
    _pending: set[object] = field(default_factory=set)  # names of stories that have not ended
    _inconsistent: set[tuple[InstanceRef, Inconsistency]] = field(default_factory=set)
    _unconfined: set[tuple[InstanceRef, str]] = field(default_factory=set)

    def run(self, stopping: Event) -> None:
        """Sweeps until `stopping` is set; the first time after one interval."""
        while not stopping.wait(self.ctx.config.sweep.interval_s):
            try:
                self.sweep()
            except LedgerError:
                log.exception("the sweep cannot use the ledger")
            except Exception:
                log.exception("the sweep failed; it is tried again")

    def sweep(self) -> tuple[Orphan, ...]:
        """Sweeps once; returns the orphans that it found."""
        ctx, config = self.ctx, self.ctx.config.sweep
        seen = take_inventory(
            ctx.host, ctx.ledger, ctx.settings.layout, unreconciled=ctx.unreconciled.all()
        )
        left = orphans(seen.resources, seen.records)
        now_s = ctx.clock.monotonic()
        self.history.update(left, now_s)
        self._save()
        self._count(left)
        if not self.same_state():
            log.error(
                "the state directory is not the one swept before: nothing is swept or reconciled"
            )
            return left
        self._reconcile(seen.records)
        self._announce_unconfined(seen.records)
        self._restore_rules(seen)
        if config.remove:
            self._submit(self.history.due(left, now_s, config.grace_s), now_s)
        return left

    def _save(self) -> None:
        try:
            self.history.save()
        except _REASONS as error:
            log.warning("cannot save the sweep history: %s", error)

    def _count(self, left: tuple[Orphan, ...]) -> None:
        counted = Counter(one.resource.kind for one in left)
        for kind in Kind:
            self.ctx.metrics.orphans.labels(kind.value).set(counted[kind])

    # ------------------------------------------------------------ records and rules

    def _reconcile(self, records: Records) -> None:
        """Reconciles an inconsistency once, when it is first seen; the rest is left to a person."""
        found = set(inconsistencies(records))
        fresh = [ref for ref, inconsistency in found - self._inconsistent]
        for ref, inconsistency in found - self._inconsistent:
            log.info("%s is reconciled: %s", ref, inconsistency.value)
        self._inconsistent = found | {
            one for one in self._inconsistent if one[0].instance_id in records.busy
        }
        self.ctx.unreconciled.add((ref.instance_id for ref in fresh), Why())
        waiting = self.ctx.unreconciled.all()
        for instance, status in records.instances.items():
            if instance in waiting and ("reconcile", instance) not in self._pending:
                self._run(("reconcile", instance), reconcile_story(status.ref, self.ctx))

    def _announce_unconfined(self, records: Records) -> None:
        ctx, found = self.ctx, set(missing_confinement(records))
        for ref, missing in sorted(found - self._unconfined, key=str):
            log.error("%s runs without its %s; only a new start can correct that", ref, missing)
            event = events.MissingConfinement(
                at_ms=ctx.clock.now_ms(), tenant_id=ref.tenant_id, pool_id=ref.pool_id,
                instance_id=ref.instance_id, lacks=missing,
            )  # fmt: skip
            ctx.ledger.record_events([events.encode(event)], None, now_ms=ctx.clock.now_ms())
        self._unconfined = found

    def _restore_rules(self, seen: Inventory) -> None:
        for tenant, net in seen.bridged.items():
            if tenant in seen.records.busy_tenants or ("rules", tenant) in self._pending:
                continue
            if not firewall_step(tenant, net, self.ctx.settings).done(self.ctx.host):
                self._run(("rules", tenant), _restore_rules_story(tenant, net, self.ctx))

    # ------------------------------------------------------------ leftovers

    def _submit(self, due: tuple[Orphan, ...], now_s: float) -> None:
        groups: dict[InstanceId | None, dict[Key, float]] = {}
        for one in due:
            seen_s = now_s - (self.history.first_s(one) or now_s)
            groups.setdefault(one.resource.instance, {})[one.key] = seen_s
        for instance, keys in groups.items():
            if ("sweep", instance) not in self._pending:
                refs = [one.resource.ref for one in due if one.resource.instance == instance]
                story = _remove_story(instance, keys, _tenants(refs), self.ctx)
                self._run(("sweep", instance), story)

    def _run(self, name: object, story: Iterator[Wait]) -> None:
        self._pending.add(name)
        self.ctx.executors.submit(self._until_done(name, story), behind=True)

    def _until_done(self, name: object, story: Iterator[Wait]) -> Iterator[Wait]:
        try:
            yield from story
        finally:
            self._pending.discard(name)


def _tenants(refs: list[InstanceRef | None]) -> set[TenantId]:
    return {ref.tenant_id for ref in refs if ref is not None}


def _remove_story(
    instance: InstanceId | None, due: dict[Key, float], tenants: set[TenantId], ctx: Context
) -> Iterator[Wait]:
    """The story that removes the leftovers of one instance, or of none."""
    shared: dict[TurnKey, bool] = {("tenant", tenant): SHARED for tenant in tenants}
    mine: TurnKey = ("instance", instance) if instance is not None else ("sweep", "networks")
    yield Turn({mine: EXCLUSIVE, **shared})
    context = SweepContext(
        host=ctx.host, ledger=ctx.ledger, locks=ctx.locks, settings=ctx.settings,
        now_ms=ctx.clock.now_ms, by="hostd", unreconciled=ctx.unreconciled.all,
    )  # fmt: skip
    try:
        if instance is None:
            gone, problems = sweep_networks(due, context)
        else:
            gone, problems = sweep_instance(instance, due, context)
    except _REASONS as error:
        log.warning("cannot remove the leftovers of %s yet: %s", instance or "networks", error)
        return
    for problem in problems:
        log.warning("not removed: %s", problem)
    for orphan in gone:
        ctx.metrics.swept.labels(orphan.resource.kind.value).inc()


def _restore_rules_story(tenant: TenantId, net: TenantNet, ctx: Context) -> Iterator[Wait]:
    """The story that restores the packet rules of a tenant that has a bridge."""
    yield Turn({("tenant", tenant): EXCLUSIVE, ("net", str(net.tenant_net_id)): EXCLUSIVE})
    rules = firewall_step(tenant, net, ctx.settings)
    try:
        with ctx.locks.network(tenant, request_id=_REQUEST_ID):
            if ctx.host.links.bridge(net.bridge_name) is None or rules.done(ctx.host):
                return
            rules.apply(ctx.host)
    except _REASONS as error:
        log.warning("cannot restore the packet rules of tenant %s yet: %s", tenant, error)
        return
    log.warning("the packet rules of tenant %s were missing and have been restored", tenant)
    event = events.RulesPutBack(at_ms=ctx.clock.now_ms(), tenant_id=tenant)
    ctx.ledger.record_events([events.encode(event)], None, now_ms=ctx.clock.now_ms())
