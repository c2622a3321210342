"""What the ledger says about a request, and about a delivery of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple

from enqueue.results import Failed, Result, decode_result

_FINAL_CODES: Final = ("conflict/superseded", "conflict/cancelled", "conflict/overtaken")


class DeliveryKind(Enum):
    """What a delivery of a request id turned out to be."""

    NEW = "new"
    RERUN = "rerun"  # published, and failed in a way that may be tried again
    IN_FLIGHT = "in_flight"
    UNPUBLISHED = "unpublished"  # decided; its result is to be published again
    REPLAY = "replay"  # published and final: the first result again
    REUSED = "reused"  # the id names another request


class Attempting(IntEnum):
    """Whether an attempt at a request is under way, as a crash leaves it on record."""

    NO = 0
    YES = 1
    ALONE = 2  # while no other request was attempted
    SUSPECT = 3  # it was under way when a hostd died, and has not been tried again


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One request of the ledger."""

    request_id: str
    seq: int
    call: bytes
    state: str
    runs: int
    attempts: int
    accepted_at_ms: int
    began_at_ms: int | None
    not_before_ms: int
    crashes: int
    attempting: Attempting
    result: Result | None

    @property
    def begun(self) -> bool:
        """Whether this run has had an attempt, finished or not."""
        return self.began_at_ms is not None


COLUMNS: Final = (
    "request_id, seq, call, state, runs, attempts, accepted_at_ms, began_at_ms, not_before_ms,"
    " crashes, attempting, result"
)


def entry_of(row: Sequence[Any]) -> LedgerEntry:
    """The entry in a row of `COLUMNS`."""
    attempting, raw = row[-2:]
    values = (*row[:-2], Attempting(attempting), decode_result(raw) if raw else None)
    return LedgerEntry(*values)


class RawRequest(NamedTuple):
    """A row of the table `requests`, undecoded: for checks and exports."""

    request_id: str
    seq: int
    op: str
    tenant_id: str | None
    instance_id: str | None
    state: str
    code: str | None
    runs: int
    attempts: int
    crashes: int
    accepted_at_ms: int
    began_at_ms: int | None
    not_before_ms: int
    decided_at_ms: int | None
    digest: bytes
    call: bytes
    result: bytes | None


def kind_of(known: RawRequest, digest: bytes) -> DeliveryKind:
    """What a delivery with that digest is, where its id is on record."""
    if known.digest != digest:
        return DeliveryKind.REUSED
    if known.state == "accepted":
        return DeliveryKind.IN_FLIGHT
    if known.state == "decided" or known.result is None:
        return DeliveryKind.UNPUBLISHED
    return DeliveryKind.REPLAY if is_final(decode_result(known.result)) else DeliveryKind.RERUN


def is_final(result: Result) -> bool:
    """Whether a later delivery gets this result again instead of a new run."""
    if not isinstance(result, Failed):
        return True
    return result.failure_class in ("rejected", "lost") or result.code in _FINAL_CODES
