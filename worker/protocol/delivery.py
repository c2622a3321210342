"""A job as the consumer takes it from Redis, before anything of it is verified."""

from __future__ import annotations

from dataclasses import dataclass

from enqueue.keys import job_id
from worker.protocol.verification import VerifiedRequest


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job as it was taken from Redis: its id, RQ's `data`, and RQ's times as they came.

    Bytes of an id that are no UTF-8 are surrogates in it (`surrogateescape`).
    """

    id: str
    data: bytes
    created_at: bytes = b""
    enqueued_at: bytes = b""
    canceled: bool = False

    @classmethod
    def of(cls, verified: VerifiedRequest) -> Delivery:
        """The job of an order that is on record, whether or not Redis still has it."""
        return cls(job_id(verified.body.host, verified.body.request_id), verified.call)

    @property
    def shown(self) -> str:
        """The id as a person may read it: one line, printable, not endless."""
        return ascii(self.id)[1:-1][:100]
