"""The errors that a client raises.

* EnqueueError
  + BadRequest         the request breaks the protocol; nothing was sent
  + RequestIdReused    the id already names another request; nothing was changed
  + QueueFull          the host's queue is at its limit; nothing was stored
  + QueueUnavailable   Redis did not answer in time; `may_be_stored` says what is known
  + WaitTimeout        no result yet; the request continues
  + RequestExpired     Redis has lost the job, and it is too late to send it again
  + NotRetryable       only a failed request can be run again
  + UnknownRequest     Redis holds no such request
"""

from __future__ import annotations


class EnqueueError(Exception):
    """Base of every error that the client raises on purpose."""


class BadRequest(EnqueueError):
    """The request breaks the protocol; nothing was sent."""


class RequestIdReused(EnqueueError):
    """The request id already names another request; nothing was changed."""


class QueueFull(EnqueueError):
    """The host's queue is at its limit; nothing was stored.  Try later, with the same id."""


class QueueUnavailable(EnqueueError):
    """Redis did not answer in time.

    `may_be_stored` is False if the request was certainly not stored.  In both cases, enqueueing
    again with the same request id is safe.
    """

    def __init__(self, message: str, *, may_be_stored: bool) -> None:
        super().__init__(message)
        self.may_be_stored = may_be_stored


class WaitTimeout(EnqueueError, TimeoutError):
    """No result yet; the request continues, and waiting again is safe."""


class NotRetryable(EnqueueError):
    """Only a failed request can be run again."""


class RequestExpired(EnqueueError):
    """Redis has lost the job, and its `not_after` has passed; only the host knows what it did."""


class UnknownRequest(EnqueueError):
    """Redis holds no request of this id."""
