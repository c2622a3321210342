"""`hostd drain` and `hostd undrain`: shows how far the drain on record has come.

The commands write the drain into the ledger (`worker.drain.store`); hostd carries it out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from enqueue.requests import Request
from enqueue.results import Done, Failed
from enqueue.times import format_utc
from worker.commands.host_view import HostView
from worker.drain import policy as plans
from worker.drain.policy import Drain, Guest
from worker.drain.store import load, ref_of, running_guests
from worker.errors import Unreachable
from worker.ledger.ledger import Ledger
from worker.plans.operations import operation_of
from worker.scheduling.locks import hostd_runs

POLL_S: Final = 0.2
MISSED_LOOKS: Final = 10  # hostd may just be starting again


def followed(view: HostView) -> Iterator[Drain]:
    """The drain each time it is polled, until hostd has finished the drain or the undrain.

    Raises:
        Unreachable: no hostd runs.
    """
    missed = 0
    while (known := load(view.ledger)) is not None:
        yield known
        if known.phase == "drained" or (known.phase == "undrained" and _all_back(known, view)):
            return
        missed = 0 if hostd_runs(view.config.paths.runtime) else missed + 1
        if missed > MISSED_LOOKS:
            raise Unreachable(
                "hostd does not run here; the drain is recorded, and the next `hostd run` "
                "carries it out"
            )
        time.sleep(POLL_S)


def report(view: HostView) -> dict[str, Any]:
    """The drain on record, its instances, and the instances that run now."""
    known = load(view.ledger)
    runs = [str(ref_of(guest)) for guest in running_guests(view.host)]
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
    """One row for each instance of the drain."""
    return [_row(guest, known, view) for guest in known.guests]


def waits_for_undrain(request: Request, ledger: Ledger) -> bool:
    """Whether the request waits because the host drains."""
    drain = load(ledger)
    return drain is not None and drain.in_force and operation_of(request).new_work


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
    """The guest's outcome, `under_way`, or whether it still waits."""
    if guest.outcome is not None:
        return guest.outcome
    if guest.in_flight:
        return "under_way"
    return "waits" if known.phase == "draining" else plans.NOT_BEGUN


def _came_back(request_id: str, view: HostView) -> str:
    entry = view.ledger.requests.entry(request_id)
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
    return all(view.ledger.requests.entry(request_id).state != "accepted" for request_id in asked)


def all_came_back(facts: dict[str, Any]) -> bool:
    """Whether every instance that the undrain should bring back runs again."""
    outcomes = [str(row.get("back", "running")) for row in facts["instances"]]
    return all(one == "running" or one.startswith("left: ") for one in outcomes)
