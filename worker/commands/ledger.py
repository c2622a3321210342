"""`hostd ledger`: reads the requests on record, also while hostd runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from enqueue.results import decode_result
from worker.config import Config
from worker.errors import StartupError
from worker.host.records.records import DiskRecords
from worker.ledger.checks import faults
from worker.ledger.entries import RawRequest
from worker.ledger.identity import LEDGER_ID, loss, read_marker
from worker.ledger.ledger import Ledger
from worker.ledger.readonly import holds_requests, open_readonly, snapshot
from worker.ledger.rebuild import instances_with_history
from worker.ledger.schema import SCHEMA_VERSION
from worker.model.layout import Layout
from worker.protocol.events import outcome_of
from worker.protocol.verification import trusted

_BYTES: Final = ("digest", "call", "result")
HINT = "keep the damaged file; restore a backup or rebuild: docs/runbook.md#ledger"


def stats(path: Path) -> dict[str, Any]:
    """Counts by kind, the ledger's age and size, and whether it is whole.

    Raises:
        StartupError: it cannot be read.
    """
    with snapshot(path) as ledger:
        requests, wrong = ledger.requests, faults(ledger)
        by_state = requests.count_by("state")
        return {
            "ledger": str(path),
            "ledger_id": ledger.meta.get(LEDGER_ID),
            "schema": SCHEMA_VERSION,
            "size_bytes": sum(one.stat().st_size for one in _files(path)),
            "requests": sum(by_state.values()),
            "by_state": by_state,
            "by_op": requests.count_by("op"),
            "by_outcome": {code or "done": n for code, n in requests.count_by_code().items()},
            "instances": ledger.instances.count_by_status(),
            "reservations": ledger.reservations.count_by_kind(),
            "unpublished_events": ledger.outbox.count_unpublished(),
            "oldest_ms": requests.oldest_ms(unfinished=False),
            "oldest_unfinished_ms": requests.oldest_ms(),
            "lost_before_ms": ledger.meta.lost_before_ms(),
            "integrity": "ok" if not wrong else f"{len(wrong)} faults: see `hostd ledger verify`",
        }


def _files(path: Path) -> list[Path]:
    return [one for end in ("", "-wal") if (one := Path(f"{path}{end}")).exists()]


def one(path: Path, request_id: str) -> dict[str, Any]:
    """Everything on record about a request.

    Raises:
        StartupError: it is not on record, or the ledger cannot be read.
    """
    with snapshot(path) as ledger:
        row = ledger.requests.raw(request_id)
        if row is None:
            raise StartupError(
                f"no request {request_id} is in {path}: it was never accepted here, or longer ago "
                "than [ledger] retention_days"
            )
        return _document(ledger, row)


def export(path: Path, *, since_ms: int = 0) -> Iterator[dict[str, Any]]:
    """Every request that was accepted since then, in the order of acceptance.

    Raises:
        StartupError: the ledger cannot be read.
    """
    with snapshot(path) as ledger:
        for row in ledger.requests.each_raw(since_ms=since_ms):
            yield _document(ledger, row)


def _document(ledger: Ledger, row: RawRequest) -> dict[str, Any]:
    plain = {key: value for key, value in row._asdict().items() if key not in _BYTES}
    body = trusted(row.call).body
    result = decode_result(row.result) if row.result else None
    return plain | {
        "digest": row.digest.hex(),
        "issuer": body.issuer,
        "issued_at_ms": body.issued_at_ms,
        "not_after_ms": body.not_after_ms,
        "request": msgspec.to_builtins(body.request),
        "outcome": outcome_of(result) if result else None,
        "result": msgspec.to_builtins(result) if result else None,
        "steps": [
            {"step": step, "began_at_ms": began_ms, "finished_at_ms": finished_ms}
            for step, began_ms, finished_ms in ledger.journal.steps(row.request_id)
        ],
    }


def verify(path: Path) -> list[str]:
    """The faults of the ledger, at most 100; empty if it is whole.

    Raises:
        StartupError: it cannot be read at all.
    """
    with snapshot(path) as ledger:
        return faults(ledger)


def health(config: Config) -> tuple[Literal["ok", "fail"], str]:
    """For `hostd doctor`: whether the ledger exists, is whole, and belongs to this host."""
    path, layout = config.paths.ledger, Layout(config.paths.state)
    try:
        marker = read_marker(layout)
        lost = loss(path, marker, lambda: instances_with_history(DiskRecords(layout)))
        if lost is not None:
            return "fail", lost
        if not holds_requests(path):
            return "ok", f"none at {path} yet: the first `hostd run` makes it"
        with open_readonly(path) as ledger:
            if wrong := faults(ledger):
                return "fail", f"{path} is damaged: {wrong[0]} ({len(wrong)} faults)"
            count = sum(ledger.requests.count_by("state").values())
            found = ledger.meta.get(LEDGER_ID)
    except (StartupError, OSError) as error:
        return "fail", str(error)
    if marker is not None and found not in (None, marker.ledger_id):
        return "fail", f"{path} is {found}; this host was served with {marker.ledger_id}"
    return "ok", f"{count} requests at {path}, whole"
