"""The request that a task of the executors works on."""

from __future__ import annotations

from dataclasses import dataclass

from worker.ledger.entries import LedgerEntry
from worker.protocol.delivery import Delivery
from worker.protocol.verification import VerifiedRequest


@dataclass(frozen=True, slots=True)
class InFlight:
    """An accepted request that has not ended; `entry` is its row when it was submitted."""

    verified: VerifiedRequest
    entry: LedgerEntry
    delivery: Delivery
