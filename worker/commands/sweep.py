"""`hostd sweep`: what is left over on this host, and away with it; also beside a running hostd."""

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
    """A look: what is left over, and since when."""

    left: tuple[Orphan, ...]
    history: SweepHistory
    now_s: float


def found(view: HostView) -> Found:
    """What is left over; nothing is written.

    Raises:
        HostdError, OSError: something cannot be listed.
    """
    return Found(sweep_context(view).orphans(), sweep_history(view), time.monotonic())


def rows(seen: Found, grace_s: float) -> list[dict[str, Any]]:
    """One row for each: since when it is seen, and in how long it is due, in seconds."""
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
    """What was removed, and why other things that were due were not.

    `moved` says that a person has moved the state directory.

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
    """What an operator's removal works with."""
    return SweepContext(
        host=view.host, ledger=view.ledger, locks=view.locks, settings=view.settings,
        now_ms=lambda: int(time.time() * 1000), by="operator",
    )  # fmt: skip


def sweep_history(view: HostView) -> SweepHistory:
    """What the last sweep saw, hostd's own or an operator's."""
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
            f"{layout.state} is another directory, or another disk, than when this boot began",
            hint="mount its disk again; if it was moved on purpose, sweep once with --moved",
        )
