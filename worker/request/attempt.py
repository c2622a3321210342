"""One attempt at a request: locks, facts, reservations, plan, engine, decision.

After a transient failure the request is tried again later; every other outcome is written to the
ledger while the locks are still held.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import assert_never

from enqueue.requests import InstanceRequest, NetworkRequest, Ping
from enqueue.results import Failed, Result
from enqueue.times import format_iso
from worker.errors import Broken, HostdError, LedgerError, Transient
from worker.ledger.entries import LedgerEntry
from worker.model.names import InstanceRef
from worker.plans.facts import network_facts
from worker.plans.network import network_steps
from worker.plans.operations import (
    action_for,
    facts_for,
    instance_operation,
    instance_plan,
    network_operation,
)
from worker.plans.plan import Plan
from worker.plans.reconcile import Finding
from worker.plans.shared import PlanInputs
from worker.plans.stop import memory_lost
from worker.protocol.verification import VerifiedRequest, check_times
from worker.request.backoff import back_off
from worker.request.conclude import concluded, decide
from worker.request.context import Context
from worker.request.reconcile import reconcile, reconcile_one
from worker.request.reserve import reserve_instance, reserve_network
from worker.scheduling.suspects import is_suspect
from worker.scheduling.waits import Backoff
from worker.steps.engine import Outcome, execute

log = logging.getLogger("hostd")


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and the instance's status before it."""

    plan: Plan
    before: str | None = None


def attempt(verified: VerifiedRequest, entry: LedgerEntry, ctx: Context) -> Result | Backoff:
    """The request's result, decided in the ledger, or when to try again.

    `entry` is the request before this attempt.  A request that had begun is never too late, even if
    a shutdown interrupted it.
    """
    begun, in_time, alone = entry.begun, entry.begun or entry.runs > 1, is_suspect(entry)
    entry = ctx.ledger.requests.begin_attempt(entry.request_id, ctx.clock.now_ms(), alone=alone)
    planned = Planned(Plan((), ""))
    with ExitStack() as locks:
        try:
            if not in_time:
                check_times(verified.body, now_ms=ctx.clock.now_ms())
            locks.enter_context(_locked(verified, ctx))
            if not begun:
                _reconcile_first(verified, ctx)
            planned = _plan(verified, entry, ctx)
            outcome = _execute(verified, planned, ctx)
            return _conclude(verified, entry, planned, outcome, ctx)
        except Exception as error:  # noqa: BLE001  every failure is a result, a bug's too
            outcome = Outcome((), {}, _hostd_error(error, entry.request_id))
            return _conclude(verified, entry, planned, outcome, ctx)


def _hostd_error(error: Exception, request_id: str) -> HostdError:
    """The error to report to the caller.

    Raises:
        LedgerError: without its ledger hostd must not continue.
    """
    if isinstance(error, HostdError):
        return error
    if isinstance(error, LedgerError):
        raise error
    log.exception("bug while carrying out %s", request_id)
    return Broken(
        "bug", f"{type(error).__name__}: {error}", hint="please report it, with hostd's log"
    )


def _reconcile_first(verified: VerifiedRequest, ctx: Context) -> None:
    """Reconciles the instance before its first request since hostd started.

    Skipped if the request had already begun: it finishes or undoes its earlier work itself.

    Raises:
        Lost: `memory_lost`, for an operation that needs the guest's memory.
    """
    request = verified.body.request
    if not isinstance(request, InstanceRequest):
        return
    ref, operation = InstanceRef.of(request), instance_operation(request)
    if not operation.reconciles_first:
        return
    if reconcile(ref, ctx) is Finding.LOST and operation.needs_memory:
        raise memory_lost(ref)


@contextmanager
def _locked(verified: VerifiedRequest, ctx: Context) -> Iterator[None]:
    request, id_ = verified.body.request, verified.body.request_id
    if isinstance(request, NetworkRequest):
        lock = ctx.locks.network(request.tenant_id, request_id=id_)
    elif isinstance(request, InstanceRequest):
        exclusive = _builds_network(request, id_, ctx)
        lock = ctx.locks.instance(
            request.tenant_id, request.instance_id, request_id=id_, exclusive_tenant=exclusive
        )
    elif isinstance(request, Ping):
        raise Broken("bug", "a Ping needs no lock")
    else:
        assert_never(request)
    with lock as waited_s:
        ctx.metrics.lock_wait.observe(waited_s)
        yield


def _builds_network(request: InstanceRequest, request_id: str, ctx: Context) -> bool:
    """Whether the tenant must be locked exclusively.

    Its network is missing, or the request had begun to build it when it was killed and may have to
    undo that.
    """
    if not instance_operation(request).may_build_network:
        return False
    tenant = ctx.host.records.tenant(request.tenant_id)
    if tenant is None:
        return False
    steps = network_steps(request.tenant_id, tenant.net, ctx.settings)
    begun = ctx.ledger.journal.begun_steps(request_id)
    return any(step.name in begun or not step.done(ctx.host) for step in steps)


def _plan(verified: VerifiedRequest, entry: LedgerEntry, ctx: Context) -> Planned:
    request = verified.body.request
    if isinstance(request, NetworkRequest):
        facts = network_facts(request, ctx.host)
        reserve_network(request, facts, ctx.ledger, ctx.settings)
        return Planned(network_operation(request).plan(request, facts, ctx.settings))
    if isinstance(request, InstanceRequest):
        return _plan_instance(request, entry, ctx)
    if isinstance(request, Ping):
        raise Broken("bug", "a Ping needs no plan")
    assert_never(request)


def _plan_instance(request: InstanceRequest, entry: LedgerEntry, ctx: Context) -> Planned:
    at = format_iso(ctx.clock.now_ms())
    facts = replace(
        facts_for(request, ctx.host, layout=ctx.settings.layout, at=at),
        retry_of_failed_run=entry.runs > 1 and _may_be_retried(entry.result),
    )
    action = action_for(request, facts)
    place = reserve_instance(action, facts, ctx.ledger, ctx.settings)
    inputs = PlanInputs(facts, place, ctx.settings, request, entry.request_id)
    return Planned(instance_plan(request, action, inputs), facts.status)


def _may_be_retried(result: Result | None) -> bool:
    """Whether the earlier run failed, but not because the instance's state forbade it."""
    return isinstance(result, Failed) and result.failure_class in ("transient", "broken")


def _execute(verified: VerifiedRequest, planned: Planned, ctx: Context) -> Outcome:
    outcome = execute(
        planned.plan.steps,
        host=ctx.host,
        journal=ctx.ledger.journal,
        request_id=verified.body.request_id,
        clock=ctx.clock,
        deadline_s=ctx.clock.monotonic() + ctx.config.worker.request_timeout_s,
    )
    if outcome.error is None and planned.plan.fails_with is not None:
        return Outcome(outcome.reports, outcome.detail, planned.plan.fails_with)
    return outcome


def _conclude(
    verified: VerifiedRequest, entry: LedgerEntry, planned: Planned, outcome: Outcome, ctx: Context
) -> Result | Backoff:
    retry = ctx.config.retry
    if isinstance(outcome.error, Transient) and entry.attempts < retry.attempts:
        return back_off(verified, entry, outcome.error, ctx)
    result = concluded(
        verified.body.request,
        entry,
        outcome,
        planned.plan.state,
        changed=outcome.changed or bool(ctx.ledger.journal.begun_steps(entry.request_id)),
        issued_at_ms=verified.body.issued_at_ms,
        now_ms=ctx.clock.now_ms(),
    )
    result = decide(verified, result, ctx, before=planned.before)
    if isinstance(verified.body.request, InstanceRequest):
        _watch_or_reconcile(InstanceRef.of(verified.body.request), entry, outcome, ctx)
    return result


def _watch_or_reconcile(
    ref: InstanceRef, entry: LedgerEntry, outcome: Outcome, ctx: Context
) -> None:
    """Watches a VMM that lives.

    If the VMM ended during a request that could not be undone completely, the instance is
    reconciled next: nothing else would check it.
    """
    ctx.watch(ref)
    if outcome.error is None or not ctx.ledger.journal.begun_steps(entry.request_id):
        return
    if ctx.host.vmm.pid(ref) is None:
        reconcile_one(ref, "unknown", ctx)
