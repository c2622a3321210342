"""Saves and loads the drain in the ledger, and lists the guests to drain."""

from __future__ import annotations

import secrets
import time
from typing import Final

import msgspec

from worker.drain import policy as plans
from worker.drain.policy import Drain, Guest, Strategy
from worker.errors import StartupError
from worker.ledger.ledger import Ledger
from worker.model.names import InstanceRef
from worker.ports import Host
from worker.protocol import events

NOTE: Final = "drain"


def load(ledger: Ledger) -> Drain | None:
    """The saved drain: the one in force, or the last one; None if there never was one."""
    raw = ledger.meta.get(NOTE)
    return None if raw is None else msgspec.json.decode(raw, type=Drain)


def save(drain: Drain, ledger: Ledger) -> None:
    """Saves the drain."""
    ledger.meta.set(NOTE, msgspec.json.encode(drain).decode())


def drain(ledger: Ledger, strategy: Strategy, *, deadline_s: float) -> Drain:
    """Requests a drain: a new one, or the one in force with another deadline.

    Raises:
        StartupError: an undrain is under way.
    """
    now_ms = int(time.time() * 1000)
    deadline_ms = now_ms + int(deadline_s * 1000)
    with ledger.transaction():
        known = load(ledger)
        if known is not None and known.phase == "undraining":
            raise StartupError("an undrain is under way; `hostd drain --status` shows it")
        if known is not None and known.in_force:
            asked = plans.extended(known, strategy, deadline_ms=deadline_ms)
        else:
            id_ = secrets.token_hex(4)
            asked = plans.begun(id_, strategy, now_ms=now_ms, deadline_ms=deadline_ms)
        save(asked, ledger)
    return asked


def undrain(ledger: Ledger) -> Drain:
    """Requests the end of the drain.

    Raises:
        StartupError: the host does not drain.
    """
    with ledger.transaction():
        known = load(ledger)
        if known is None or not known.in_force:
            raise StartupError("this host does not drain")
        asked = msgspec.structs.replace(known, phase="undraining")
        save(asked, ledger)
    return asked


def running_guests(host: Host) -> list[Guest]:
    """Every instance on record whose VMM lives."""
    found = []
    for ref in host.records.instances():
        if host.vmm.pid(ref) is None:
            continue
        spec = host.vmm.spec(ref)
        found.append(
            Guest(
                tenant_id=ref.tenant_id,
                pool_id=ref.pool_id,
                instance_id=ref.instance_id,
                mem_mib=spec.mem_mib if spec else 0,
            )
        )
    return found


def ref_of(guest: Guest) -> InstanceRef:
    """The guest's instance."""
    return InstanceRef(guest.tenant_id, guest.pool_id, guest.instance_id)


def announce(drain: Drain, ledger: Ledger, *, now_ms: int) -> None:
    """Records the event of the drain's phase."""
    away = sum(guest.outcome in plans.OURS for guest in drain.guests)
    back = sum(guest.back is not None for guest in drain.guests)
    event: events.Event
    match drain.phase:
        case "draining":
            event = events.HostDraining(
                at_ms=now_ms, drain_id=drain.id, strategy=drain.strategy,
                deadline_ms=drain.deadline_ms, guests=len(drain.guests),
            )  # fmt: skip
        case "drained":
            event = events.HostDrained(
                at_ms=now_ms, drain_id=drain.id, away=away, guests=len(drain.guests)
            )
        case "undraining" | "undrained":
            event = events.HostUndrained(
                at_ms=now_ms, drain_id=drain.id, back=back, left=len(drain.guests) - back
            )
    ledger.record_events([events.encode(event)], None, now_ms=now_ms)
