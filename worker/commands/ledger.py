"""`hostd ledger`: what this host was asked, read beside a hostd that may be running."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from enqueue.results import decode_result
from worker.errors import StartupError
from worker.ledger.checks import faults
from worker.ledger.database import LOST_BEFORE, SCHEMA_VERSION, open_readonly, unusable_ledger
from worker.ledger.identity import LEDGER_ID
from worker.protocol.events import outcome_of
from worker.protocol.verification import trusted

_FIELDS: Final = (
    "request_id", "seq", "op", "tenant_id", "instance_id", "state", "code", "runs", "attempts",
    "crashes", "accepted_at_ms", "began_at_ms", "not_before_ms", "decided_at_ms",
)  # fmt: skip
_SELECT: Final = f"SELECT {', '.join(_FIELDS)}, digest, call, result FROM requests"  # noqa: S608  constant text


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """The ledger as it is now, however long the look takes.

    Raises:
        StartupError: there is none, it cannot be read, or it is of another schema.
    """
    with open_readonly(path) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA_VERSION:
            wrong = f"of schema {version}, this hostd reads {SCHEMA_VERSION}"
            raise unusable_ledger(path, sqlite3.DatabaseError(wrong))
        db.execute("BEGIN")
        yield db


def stats(path: Path) -> dict[str, Any]:
    """How many requests there are of each kind, how old and how big it is, and whether it is whole.

    Raises:
        StartupError: it cannot be read.
    """
    with snapshot(path) as db:
        requests, oldest_ms = db.execute(
            "SELECT COUNT(*), MIN(accepted_at_ms) FROM requests"
        ).fetchone()
        unfinished = db.execute(
            "SELECT MIN(accepted_at_ms) FROM requests WHERE state = 'accepted'"
        ).fetchone()
        wrong = faults(db)
        return {
            "ledger": str(path),
            "ledger_id": _meta(db, LEDGER_ID),
            "schema": SCHEMA_VERSION,
            "size_bytes": sum(one.stat().st_size for one in _files(path)),
            "requests": requests,
            "by_state": _counts(db, "state"),
            "by_op": _counts(db, "op"),
            "by_outcome": _outcomes(db),
            "instances": dict(
                db.execute("SELECT status, COUNT(*) FROM instances GROUP BY status").fetchall()
            ),
            "reservations": dict(
                db.execute("SELECT kind, COUNT(*) FROM reservations GROUP BY kind").fetchall()
            ),
            "untold_events": db.execute(
                "SELECT COUNT(*) FROM outbox WHERE published = 0"
            ).fetchone()[0],
            "oldest_ms": oldest_ms,
            "oldest_unfinished_ms": unfinished[0],
            "lost_before_ms": None if (lost := _meta(db, LOST_BEFORE)) is None else int(lost),
            "integrity": "ok" if not wrong else f"{len(wrong)} faults: see `hostd ledger verify`",
        }


def _files(path: Path) -> list[Path]:
    return [one for end in ("", "-wal") if (one := Path(f"{path}{end}")).exists()]


def _meta(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM notes WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _counts(db: sqlite3.Connection, column: str) -> dict[str, int]:
    query = f"SELECT {column}, COUNT(*) FROM requests GROUP BY {column}"  # noqa: S608  a constant of this module
    return dict(db.execute(query).fetchall())


def _outcomes(db: sqlite3.Connection) -> dict[str, int]:
    """`done` and codes; without those that are unfinished."""
    counted: Counter[str] = Counter()
    query = "SELECT code, COUNT(*) FROM requests WHERE state != 'accepted' GROUP BY code"
    for code, count in db.execute(query):
        counted[code or "done"] += count
    return dict(counted)


def one(path: Path, request_id: str) -> dict[str, Any]:
    """Everything on record about a request.

    Raises:
        StartupError: it is not on record, or the ledger cannot be read.
    """
    with snapshot(path) as db:
        row = db.execute(f"{_SELECT} WHERE request_id = ?", (request_id,)).fetchone()
        if row is None:
            raise StartupError(
                f"no request {request_id} is in {path}: it was never accepted here, or longer ago "
                "than [ledger] retention_days"
            )
        return _document(db, row)


def export(path: Path, *, since_ms: int = 0) -> Iterator[dict[str, Any]]:
    """Every request that was accepted since then, in the order of acceptance.

    Raises:
        StartupError: the ledger cannot be read.
    """
    with snapshot(path) as db:
        for row in db.execute(f"{_SELECT} WHERE accepted_at_ms >= ? ORDER BY seq", (since_ms,)):
            yield _document(db, row)


def _document(db: sqlite3.Connection, row: Sequence[Any]) -> dict[str, Any]:
    *plain, digest, call, raw = row
    body = trusted(call).body
    result = decode_result(raw) if raw else None
    steps = db.execute(
        "SELECT step, began_at_ms, finished_at_ms FROM journal WHERE request_id = ?"
        " ORDER BY began_at_ms",
        (row[0],),
    )
    return dict(zip(_FIELDS, plain, strict=True)) | {
        "digest": digest.hex(),
        "issuer": body.issuer,
        "issued_at_ms": body.issued_at_ms,
        "not_after_ms": body.not_after_ms,
        "request": msgspec.to_builtins(body.request),
        "outcome": outcome_of(result) if result else None,
        "result": msgspec.to_builtins(result) if result else None,
        "steps": [
            {"step": step, "began_at_ms": began_ms, "finished_at_ms": finished_ms}
            for step, began_ms, finished_ms in steps
        ],
    }


def verify(path: Path) -> list[str]:
    """What is wrong with the ledger, at most 100 lines; none if it is whole.

    Raises:
        StartupError: it cannot be read at all.
    """
    with snapshot(path) as db:
        return faults(db)
