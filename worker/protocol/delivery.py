"""A job as the consumer takes it from Redis, unverified."""

from __future__ import annotations

from dataclasses import dataclass

from enqueue.keys import job_id
from worker.protocol.verification import VerifiedRequest


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job as it was taken from Redis: its id, RQ's `data`, and RQ's times as they came.

    Bytes of an id that are not UTF-8 become surrogates in it (`surrogateescape`).
    """

    id: str
    data: bytes
    created_at: bytes = b""
    enqueued_at: bytes = b""
    canceled: bool = False

    @classmethod
    def of(cls, verified: VerifiedRequest) -> Delivery:
        """The job of a request on record, whether or not Redis still has it."""
        return cls(job_id(verified.body.host, verified.body.request_id), verified.call)

    @property
    def shown(self) -> str:
        """The id for people: one line, printable, at most 100 characters."""
        return ascii(self.id)[1:-1][:100]
