"""What must be true of a ledger beyond what SQLite can check."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

import msgspec

from enqueue.requests import op_of
from enqueue.results import Failed, decode_result
from worker.protocol.verification import trusted

_LIMIT: Final = 100  # faults are told; more of them say nothing new
_REQUESTS: Final = (
    "SELECT request_id, digest, op, call, state, code, result, decided_at_ms FROM requests"
)
_UNFINISHED: Final = f"{_REQUESTS} WHERE state = 'accepted'"
_ORPHANS: Final = (
    "SELECT DISTINCT request_id FROM journal"
    " WHERE request_id NOT IN (SELECT request_id FROM requests)"
)


def faults(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the ledger, at most 100 lines; none if it is whole.

    Raises:
        sqlite3.Error: it is damaged so far that it cannot be read.
    """
    found = [row[0] for row in db.execute(f"PRAGMA integrity_check({_LIMIT})")]
    if found != ["ok"]:
        return found
    return [fault for _, fault in zip(range(_LIMIT), _inconsistencies(db), strict=False)]


def unfinished_faults(db: sqlite3.Connection) -> list[str]:
    """What is wrong with the requests that are to be carried out yet."""
    return list(_wrong(db, _UNFINISHED))


def _inconsistencies(db: sqlite3.Connection) -> Iterator[str]:
    yield from _wrong(db, f"{_REQUESTS} ORDER BY seq")
    for (request_id,) in db.execute(_ORPHANS):
        yield f"journal of request {request_id}, which is not on record"


def _wrong(db: sqlite3.Connection, query: str) -> Iterator[str]:
    for row in db.execute(query):
        for fault in _of_request(*row):
            yield f"request {row[0]}: {fault}"


def _of_request(
    request_id: str, digest: bytes, op: str, call: bytes, state: str,
    code: str | None, result: bytes | None, decided_at_ms: int | None,
) -> Iterator[str]:  # fmt: skip
    try:
        order = trusted(call)
    except msgspec.DecodeError as error:
        yield f"its bytes are no request: {error}"
        return
    if order.digest != digest:
        yield "its digest is not that of its bytes"
    if order.body.request_id != request_id:
        yield f"its bytes are those of request {order.body.request_id}"
    if op_of(order.body.request) != op:
        yield f"its operation is {op}, its bytes ask for {op_of(order.body.request)}"
    if state != "accepted":
        yield from _of_result(code, result, decided_at_ms)


def _of_result(code: str | None, result: bytes | None, decided_at_ms: int | None) -> Iterator[str]:
    if result is None or decided_at_ms is None:
        yield "it is decided, but without a result or a time"
        return
    try:
        decoded = decode_result(result)
    except msgspec.DecodeError as error:
        yield f"its result cannot be read: {error}"
        return
    if code != (decoded.code if isinstance(decoded, Failed) else None):
        yield f"its code is {code}, which its result does not say"
