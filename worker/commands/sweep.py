"""`hostd sweep`: lists or removes orphaned resources of this host, also while hostd runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from enqueue.requests import InstanceId
from worker.commands.host_view import HostView
from worker.errors import Conflict, HostdError
from worker.linux import machine
from worker.sweep.history import SweepHistory
from worker.sweep.orphans import Orphan
from worker.sweep.removal import Key, SweepContext, sweep_instance, sweep_networks
from worker.sweep.state_guard import accept_state, is_same_state


@dataclass(frozen=True, slots=True)
class Found:
    """The orphans at one time, and since when each is seen."""

    left: tuple[Orphan, ...]
    history: SweepHistory
    now_s: float


def found(view: HostView) -> Found:
    """The orphans of this host; writes nothing.

    Raises:
        HostdError, OSError: something cannot be listed.
    """
    return Found(sweep_context(view).orphans(), sweep_history(view), time.monotonic())


def rows(seen: Found, grace_s: float) -> list[dict[str, Any]]:
    """One row for each orphan; `seen_s` and `due_in_s` in seconds."""
    return [
        {
            "kind": one.resource.kind.value,
            "name": one.resource.name,
            "instance": one.resource.instance,
            "why": one.why,
            "proof": one.resource.proof,
            "seen_s": round(seen_s, 1),
            "due_in_s": round(max(0.0, grace_s - seen_s), 1),
        }
        for one in seen.left
        for seen_s in [_seen_s(one, seen)]
    ]


def sweep(view: HostView, grace_s: float, *, moved: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of what was removed, and the reasons why the rest of what was due was not.

    `moved`: the operator confirms that the state directory was moved.

    Raises:
        Conflict: `state_moved`.
        HostdError, OSError: something cannot be listed.
    """
    _check_state(view, moved=moved)
    context, seen = sweep_context(view), found(view)
    seen.history.update(seen.left, seen.now_s)
    seen.history.save()
    groups: dict[InstanceId | None, dict[Key, float]] = {}
    for one in seen.history.due(seen.left, seen.now_s, grace_s):
        groups.setdefault(one.resource.instance, {})[one.key] = _seen_s(one, seen)
    swept: list[Orphan] = []
    problems: list[str] = []
    for instance, due in groups.items():
        try:
            gone, why_not = (
                sweep_networks(due, context)
                if instance is None
                else sweep_instance(instance, due, context)
            )
        except (HostdError, OSError) as error:
            problems.append(f"{instance or 'networks'}: {error}")
            continue
        swept += gone
        problems += why_not
    return rows(Found(tuple(swept), seen.history, seen.now_s), grace_s), problems


def sweep_context(view: HostView) -> SweepContext:
    """What a removal by an operator needs."""
    return SweepContext(
        host=view.host, ledger=view.ledger, locks=view.locks, settings=view.settings,
        now_ms=lambda: int(time.time() * 1000), by="operator",
    )  # fmt: skip


def sweep_history(view: HostView) -> SweepHistory:
    """When the earlier sweeps, of hostd or of an operator, saw each orphan first."""
    return SweepHistory.of(view.config, boot_id=machine.boot_id())


def _seen_s(orphan: Orphan, seen: Found) -> float:
    first_s = seen.history.first_s(orphan)
    return 0.0 if first_s is None else seen.now_s - first_s


def _check_state(view: HostView, *, moved: bool) -> None:
    layout, boot_id = view.settings.layout, machine.boot_id()
    if moved:
        accept_state(view.ledger, layout, boot_id=boot_id)
    elif not is_same_state(view.ledger, layout, boot_id=boot_id):
        raise Conflict(
            "state_moved",
            f"{layout.state} is not the directory or disk that it was when the host booted",
            hint="mount its disk again; if it was moved on purpose, sweep once with --moved",
        )
