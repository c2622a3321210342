"""Checks that a ledger is the one that this machine last ran with, whole and up to date.

A marker in the state directory names the ledger and how many starts and events it had.  Without
the marker, a lost ledger would look like a fresh host, and an old backup like the latest ledger.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from enqueue.requests import op_of
from worker.errors import HostdError, Rejected, StartupError
from worker.ledger.checks import unfinished_faults
from worker.ledger.database import unusable_ledger
from worker.ledger.entries import LedgerEntry
from worker.ledger.ledger import Ledger
from worker.ledger.meta import BACKUP_AT, LOST_BEFORE
from worker.ledger.readonly import holds_requests
from worker.ledger.rebuild import Rebuilt, rebuild_from_host, traces_of_earlier_run
from worker.linux import files, safe_open
from worker.model.layout import Layout
from worker.ports import Host
from worker.protocol import events
from worker.protocol.results import refused
from worker.protocol.verification import trusted

log = logging.getLogger("hostd")

LEDGER_ID: Final = "ledger_id"
STARTS: Final = "starts"
# More events than there can be since the marker was written: a follower sees the gap.
EVENTS_GAP: Final = 1_000_000
_SHOWN: Final = 5
_LIMIT_BYTES: Final = 4096


class LedgerMarker(msgspec.Struct, frozen=True, kw_only=True):
    """The file `.hostd` of the state directory: its ledger, starts of hostd, events so far."""

    ledger_id: str
    starts: int
    events: int


def marker_path(layout: Layout) -> Path:
    """The path of the marker."""
    return layout.state / ".hostd"


def read_marker(layout: Layout) -> LedgerMarker | None:
    """The marker; None if hostd has never run with this state directory.

    Raises:
        StartupError: it cannot be read.
    """
    path = marker_path(layout)
    try:
        raw = safe_open.read(path, limit_bytes=_LIMIT_BYTES)
        return None if raw is None else msgspec.json.decode(raw, type=LedgerMarker)
    except (OSError, ValueError) as error:
        raise StartupError(
            f"{path} is damaged: {error}; if the ledger is the one that this host ran with last, "
            "remove the file"
        ) from error


def write_marker(ledger: Ledger, layout: Layout) -> None:
    """Writes how many starts and events the ledger has.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    marker = LedgerMarker(
        ledger_id=ledger.meta.get(LEDGER_ID) or "",
        starts=int(ledger.meta.get(STARTS) or 0),
        events=ledger.outbox.last_number(),
    )
    path, content = marker_path(layout), msgspec.json.encode(marker) + b"\n"
    with suppress(OSError, ValueError):
        if safe_open.read(path, limit_bytes=_LIMIT_BYTES) == content:
            return
    files.write(path, content)


def open_ledger(path: Path, host: Host, layout: Layout, *, now_ms: int) -> Ledger:
    """The ledger that this machine last ran with; a new one if it never ran.

    Raises:
        StartupError: it is missing, another's, or damaged; the message names the way out.
    """
    marker = read_marker(layout)
    lost = loss(path, marker, lambda: traces_of_earlier_run(host))
    if lost is not None:
        raise StartupError(lost)
    ledger = Ledger.open(path)
    try:
        _identify(ledger, path, host, marker, now_ms)
        write_marker(ledger, layout)
    except HostdError as error:
        ledger.close()
        raise StartupError(f"{error}; {error.hint}") from error
    except BaseException:
        ledger.close()
        raise
    return ledger


def loss(
    path: Path, marker: LedgerMarker | None, traces_of: Callable[[], Sequence[str]]
) -> str | None:
    """How it shows that the ledger was lost; None if it exists, or never did.

    `traces_of` lists what an earlier hostd left on the machine.

    Raises:
        StartupError: the ledger cannot be read.
    """
    if holds_requests(path):
        return None
    traces = traces_of()
    if marker is None and not traces:
        return None
    seen = [f"the state directory was served with ledger {marker.ledger_id}"] if marker else []
    if traces:
        more = f" and {len(traces) - _SHOWN} more" if len(traces) > _SHOWN else ""
        seen.append(f"hostd left {', '.join(traces[:_SHOWN])}{more} on this machine")
    return (
        f"ledger {path} is gone, but {' and '.join(seen)}: restore it from a backup, or make a new "
        "one from the disk with `hostd recover --rebuild-ledger`; see docs/runbook.md#ledger"
    )


def _identify(
    ledger: Ledger, path: Path, host: Host, marker: LedgerMarker | None, now_ms: int
) -> None:
    known, starts = ledger.meta.get(LEDGER_ID), int(ledger.meta.get(STARTS) or 0)
    if marker is not None and known not in (None, marker.ledger_id):
        raise StartupError(
            f"ledger {path} is {known}, but this state directory was served with "
            f"{marker.ledger_id}: put that one back, or make a new one from the disk with "
            "`hostd recover --rebuild-ledger --force`; see docs/runbook.md#ledger"
        )
    with ledger.transaction():
        if wrong := unfinished_faults(ledger):
            raise unusable_ledger(path, sqlite3.DatabaseError(f"damaged: {wrong[0]}"))
        if known is None:
            ledger.meta.set(LEDGER_ID, marker.ledger_id if marker else uuid.uuid4().hex)
        if _is_older(ledger, known, starts, marker):
            rebuilt = reset(ledger, host, marker, now_ms=now_ms)
            log.warning(
                "the ledger is an older copy, as from a backup: requests that it does not know and "
                "that were issued before now are refused; taken from the disk: %s", rebuilt,
            )  # fmt: skip
        ledger.meta.set(STARTS, str(max(starts, marker.starts if marker else 0) + 1))


def _is_older(ledger: Ledger, known: str | None, starts: int, marker: LedgerMarker | None) -> bool:
    """Whether this copy lacks requests."""
    if ledger.meta.get(BACKUP_AT) is not None:
        return True
    if marker is None:
        return False
    return known is None or starts < marker.starts or ledger.outbox.last_number() < marker.events


def reset(ledger: Ledger, host: Host, marker: LedgerMarker | None, *, now_ms: int) -> Rebuilt:
    """Rebuilds an incomplete ledger from the host, and records that requests may be missing.

    Its unfinished requests end: they may have been done, and undone by a later request.
    """
    with ledger.transaction():
        known = marker.events if marker else now_ms // 1000
        ledger.outbox.skip_to(max(known, ledger.outbox.last_number()) + EVENTS_GAP)
        ledger.meta.delete(BACKUP_AT)
        ledger.meta.set(LOST_BEFORE, str(now_ms))
        for entry in ledger.requests.unfinished():
            _end(ledger, entry, now_ms)
        return rebuild_from_host(host, ledger, now_ms=now_ms)


def _end(ledger: Ledger, entry: LedgerEntry, now_ms: int) -> None:
    request = trusted(entry.call).body.request
    result = refused(
        op_of(request),
        Rejected(
            "ledger_lost",
            "this host lost its ledger since the request was accepted: it may have been carried "
            "out",
            hint="look at the instance, then send a new request",
        ),
    )
    ended = events.RequestEnded(
        at_ms=now_ms,
        request_id=entry.request_id,
        op=op_of(request),
        outcome=events.outcome_of(result),
        changed=False,
        code=result.code,
        tenant_id=getattr(request, "tenant_id", None),
        instance_id=getattr(request, "instance_id", None),
    )
    ledger.decide(entry.request_id, result, now_ms=now_ms, events=[events.encode(ended)])
