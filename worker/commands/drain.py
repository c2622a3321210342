"""`hostd drain` and `hostd undrain`: they write a note in the ledger, hostd does the rest."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from enqueue.results import Done, Failed
from worker.commands.host_view import HostView, format_utc
from worker.drain import policy as plans
from worker.drain.policy import Drain, Guest, Strategy
from worker.drain.store import note, noted, ref_of, running
from worker.errors import StartupError, Unreachable
from worker.ledger.ledger import Ledger

POLL_S: Final = 0.2
NEW_WORK: Final = ("StartInstance", "WakeInstance", "SetupNetwork")
MISSED_LOOKS: Final = 10  # hostd may just be starting again


def drain(ledger: Ledger, strategy: Strategy, *, deadline_s: float) -> Drain:
    """The drain is on record: a new one, or the one in force with another deadline.

    Raises:
        StartupError: an undrain is under way.
    """
    now_ms = int(time.time() * 1000)
    deadline_ms = now_ms + int(deadline_s * 1000)
    with ledger.transaction():
        known = noted(ledger)
        if known is not None and known.phase == "undraining":
            raise StartupError("an undrain is under way; `hostd drain --status` shows it")
        if known is not None and known.in_force:
            asked = plans.extended(known, strategy, deadline_ms=deadline_ms)
        else:
            id_ = secrets.token_hex(4)
            asked = plans.begun(id_, strategy, now_ms=now_ms, deadline_ms=deadline_ms)
        note(asked, ledger)
    return asked


def undrain(ledger: Ledger) -> Drain:
    """The end of the drain is on record.

    Raises:
        StartupError: the host does not drain.
    """
    with ledger.transaction():
        known = noted(ledger)
        if known is None or not known.in_force:
            raise StartupError("this host does not drain")
        asked = msgspec.structs.replace(known, phase="undraining")
        note(asked, ledger)
    return asked


def followed(view: HostView) -> Iterator[Drain]:
    """The drain as it goes, until hostd has done with what was asked for.

    Raises:
        Unreachable: no hostd runs.
    """
    missed = 0
    while (known := noted(view.ledger)) is not None:
        yield known
        if known.phase == "drained" or (known.phase == "undrained" and _all_back(known, view)):
            return
        missed = 0 if hostd_runs(view.config.paths.runtime) else missed + 1
        if missed > MISSED_LOOKS:
            raise Unreachable(
                "no hostd runs here; what was asked for is on record, and the next `hostd run` "
                "does it"
            )
        time.sleep(POLL_S)


def hostd_runs(runtime: Path) -> bool:
    """Whether a hostd holds the host's lock.

    Looked up and not tried: a lock taken to try it would turn away a hostd that starts just then
    (proc_locks(5)).
    """
    try:
        inode = (runtime / "hostd.lock").stat().st_ino
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return False
    return any(
        fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) for fields in held
    )


def report(view: HostView) -> dict[str, Any]:
    """What the drain has come to, and what runs now."""
    known = noted(view.ledger)
    runs = [str(ref_of(guest)) for guest in running(view.host)]
    if known is None:
        return {"drain": None, "phase": "none", "instances": [], "running": runs}
    return {
        "drain": known.id,
        "phase": known.phase,
        "strategy": known.strategy,
        "order": known.order,
        "mib_per_s": round(known.rate_mib_s, 1),
        "since": format_utc(known.since_ms),
        "deadline": format_utc(known.deadline_ms),
        "instances": rows(known, view),
        "running": runs,
    }


def rows(known: Drain, view: HostView) -> list[dict[str, Any]]:
    """Each instance of the drain, and where it stands."""
    return [_row(guest, known, view) for guest in known.guests]


def waits_for_undrain(op: str, ledger: Ledger) -> bool:
    """Whether a request of that operation waits because the host drains."""
    known = noted(ledger)
    return known is not None and known.in_force and op in NEW_WORK


def _row(guest: Guest, known: Drain, view: HostView) -> dict[str, Any]:
    row = {
        "instance": str(ref_of(guest)),
        "mem_mib": guest.mem_mib,
        "outcome": outcome(guest, known),
    }
    if guest.back is not None:
        row["back"] = _came_back(guest.back, view)
    if guest.left is not None:
        row["back"] = f"left: {guest.left}"
    return row


def outcome(guest: Guest, known: Drain) -> str:
    """Where a guest stands, in a word."""
    if guest.outcome is not None:
        return guest.outcome
    if guest.in_flight:
        return "under_way"
    return "waits" if known.phase == "draining" else plans.NOT_BEGUN


def _came_back(request_id: str, view: HostView) -> str:
    entry = view.ledger.entry(request_id)
    match entry.result:
        case _ if entry.state == "accepted":
            return "under_way"
        case Done():
            return entry.result.state
        case Failed():
            return entry.result.code
        case _:
            return "unknown"


def _all_back(known: Drain, view: HostView) -> bool:
    asked = [guest.back for guest in known.guests if guest.back is not None]
    return all(view.ledger.entry(request_id).state != "accepted" for request_id in asked)


def all_came_back(facts: dict[str, Any]) -> bool:
    """Whether undrain has brought back all that it meant to."""
    told = [str(row.get("back", "running")) for row in facts["instances"]]
    return all(one == "running" or one.startswith("left: ") for one in told)
