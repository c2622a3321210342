"""Checks of a ledger beyond those that SQLite does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from enqueue.requests import op_of
from enqueue.results import Failed, decode_result
from worker.ledger.entries import RawRequest
from worker.ledger.ledger import Ledger
from worker.protocol.verification import trusted

_LIMIT: Final = 100  # faults are reported; more of them say nothing new


def faults(ledger: Ledger) -> list[str]:
    """What is wrong with the ledger, at most 100 lines; empty if it is whole.

    Raises:
        sqlite3.Error: it is damaged so far that it cannot be read.
    """
    return ledger.database.damage(limit=_LIMIT) or list(islice(_inconsistencies(ledger), _LIMIT))


def unfinished_faults(ledger: Ledger) -> list[str]:
    """What is wrong with the requests that are not decided yet; within a transaction."""
    return list(_wrong(ledger.requests.each_raw(unfinished=True)))


def _inconsistencies(ledger: Ledger) -> Iterator[str]:
    yield from _wrong(ledger.requests.each_raw())
    for request_id in ledger.journal.unknown_requests():
        yield f"journal of request {request_id}, which is not on record"


def _wrong(rows: Iterable[RawRequest]) -> Iterator[str]:
    for row in rows:
        for fault in _of_request(row):
            yield f"request {row.request_id}: {fault}"


def _of_request(row: RawRequest) -> Iterator[str]:
    try:
        order = trusted(row.call)
    except msgspec.DecodeError as error:
        yield f"its bytes are no request: {error}"
        return
    if order.digest != row.digest:
        yield "its digest is not that of its bytes"
    if order.body.request_id != row.request_id:
        yield f"its bytes are those of request {order.body.request_id}"
    if op_of(order.body.request) != row.op:
        yield f"its operation is {row.op}, its bytes ask for {op_of(order.body.request)}"
    if row.state != "accepted":
        yield from _of_result(row)


def _of_result(row: RawRequest) -> Iterator[str]:
    if row.result is None or row.decided_at_ms is None:
        yield "it is decided, but without a result or a time"
        return
    try:
        decoded = decode_result(row.result)
    except msgspec.DecodeError as error:
        yield f"its result cannot be read: {error}"
        return
    if row.code != (decoded.code if isinstance(decoded, Failed) else None):
        yield f"its code is {row.code}, which its result does not say"
