"""agentd's client: puts requests on a host's queue and waits for their results.

with HostClient("rediss://redis:6379/0", signer=load_signer(path)) as client:
    ticket = client.enqueue(StartInstance(...), host="host-a")
    result = ticket.wait(timeout_s=120)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeVar

import redis

from enqueue.conversation import listing, operations
from enqueue.conversation.base import (
    DEFAULT_ISSUER,
    DEFAULT_QUEUE_LIMIT,
    DEFAULT_TIMEOUT_S,
    ClientBase,
    Item,
    TicketBase,
)
from enqueue.conversation.job import NotAfter
from enqueue.conversation.listing import Event, JobLine
from enqueue.conversation.operations import Cancellation
from enqueue.conversation.sansio import Conversation, LinkDown, Replies, RoundTrip, Sleep, step
from enqueue.keys import PENDING, JobState
from enqueue.link import Link
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer

T = TypeVar("T")


class HostClient(ClientBase[Link]):
    """Enqueues requests; safe to share between threads.

    `url_or_redis` serves every host that is not in `hosts`, which maps host names to URLs.  A
    client made from a URL returns or raises within about `timeout_s` per round trip, and repeats a
    lost one once.  A `redis.Redis` (for Sentinel, say) keeps its own timeouts and retries for
    connecting, and is not closed.  A queue holds at most `queue_limit` requests, waiting and
    running together.  Without a `signer`, requests are unsigned.  `issuer` names who asks.

    Raises:
        ValueError: a URL is invalid.
    """

    def __init__(
        self,
        url_or_redis: str | redis.Redis,
        *,
        signer: Signer | None = None,
        issuer: str = DEFAULT_ISSUER,
        queue_limit: int = DEFAULT_QUEUE_LIMIT,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        links = {host: Link(url, timeout_s) for host, url in (hosts or {}).items()}
        default = Link(url_or_redis, timeout_s)
        super().__init__(default, links, signer=signer, issuer=issuer, queue_limit=queue_limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that the client opened."""
        for link in self._all_links():
            link.close()

    def enqueue(
        self,
        request: Request,
        *,
        host: str,
        request_id: str | None = None,
        not_after: NotAfter = None,
        issuer: str | None = None,
        trace: str | None = None,
    ) -> Ticket:
        """The ticket of the request, which is stored and pushed unless its id is already stored.

        `request_id` is the idempotency key: with it, calling again is safe.  By default it is a new
        UUIDv7.  `not_after` is an aware datetime, or seconds from now; at most 7 days, by default
        24 hours.  The host does not start the request after it.  `issuer` replaces the client's.
        `trace` is a W3C traceparent.

        Raises:
            BadRequest: a field breaks the protocol; nothing was sent.
            QueueFull: nothing was stored.
            QueueUnavailable: Redis did not answer in time; its `may_be_stored` says what is known.
            RequestIdReused: the id names another request.
        """
        item: Item = request if request_id is None else (request, request_id)
        (ticket,) = self.enqueue_many(
            [item], host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return ticket

    def enqueue_many(
        self,
        items: Iterable[Item],
        *,
        host: str,
        not_after: NotAfter = None,
        issuer: str | None = None,
        trace: str | None = None,
    ) -> list[Ticket]:
        """The tickets of many requests, stored and pushed in order, all or none, in one round trip.

        An item is a request or `(request, request_id)`.

        Raises:
            BadRequest, QueueFull, QueueUnavailable: as in `enqueue`, for all of them.
            RequestIdReused: an id names another request; the other items are stored.
        """
        conversation = self._enqueue(
            items, host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return [Ticket(self, run) for run in self.run(host, conversation)]

    def ticket(self, request_id: str, *, host: str) -> Ticket:
        """The ticket of a request that is already enqueued, by any client.

        Raises:
            UnknownRequest: Redis holds no such request.
            QueueUnavailable: Redis did not answer in time.
        """
        return Ticket(self, self.run(host, operations.find(host, request_id)))

    def cancel(self, request_id: str, *, host: str) -> Cancellation:
        """`cancelled` if the request waited: it will not start, and ends as `conflict/cancelled`.

        `running`: it continues.  `ended`: its result stays.  `unknown`: Redis does not hold it.

        Raises:
            QueueUnavailable: Redis did not answer in time; cancelling again is safe.
        """
        return self.run(host, self._cancel(host, request_id))

    def jobs(
        self, *, host: str, states: Sequence[JobState] = PENDING, limit: int = 100
    ) -> list[JobLine]:
        """Up to `limit` jobs of each state asked for, the oldest first.

        Raises:
            QueueUnavailable: Redis did not answer in time.
        """
        return self.run(host, listing.jobs(host, states, limit=limit))

    def events(self, *, host: str, after: str = "0", wait_s: float = 0.0) -> list[Event]:
        """The host's events after the id `after`, up to 1000; waits up to `wait_s` for the first.

        The id `0` is before all events; `now` returns the newest event, if there is one.

        Raises:
            QueueUnavailable: Redis did not answer in time, or `after` is not an id.
        """
        return self.run(host, listing.events(host, after=after, wait_s=wait_s))

    def run(self, host: str, conversation: Conversation[T]) -> T:
        """The outcome of a conversation with the Redis of `host`."""
        link = self._link(host)
        try:
            wanted = next(conversation)
            while True:
                wanted = step(conversation, _perform(wanted, link))
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome


def _perform(wanted: RoundTrip | Sleep, link: Link) -> Replies | LinkDown:
    if isinstance(wanted, Sleep):
        time.sleep(wanted.seconds)
        return []
    try:
        return link.round_trip(wanted)
    except LinkDown as down:
        return down


class Ticket(TicketBase[HostClient]):
    """A request on a host's queue; waits for one run of it."""

    def wait(self, timeout_s: float) -> Result:
        """The result of this run of the request, not of an earlier one: `Done`, `Pong` or `Failed`.

        While it waits, it sends a job that Redis has lost again, and reconnects to Redis.

        Raises:
            WaitTimeout: no result after `timeout_s`; the request continues.
            RequestExpired: Redis has lost the job and it is too late to send it again.
            RequestIdReused: Redis has lost the job, and its id now names another request.
            QueueUnavailable: Redis refuses to be read.
        """
        result = self._client.run(self.host, self._wait(timeout_s))
        self._run = self._run.ended(result)
        return result

    def retry(self) -> Ticket:
        """The ticket of a new run of the failed request.

        Raises:
            NotRetryable: it did not fail.
            QueueFull, QueueUnavailable: as in `HostClient.enqueue`.
        """
        return Ticket(self._client, self._client.run(self.host, self._retry()))

    def cancel(self) -> Cancellation:
        """As `HostClient.cancel`; `wait` then returns the result that the host publishes."""
        return self._client.cancel(self.request_id, host=self.host)

    def status(self) -> str | None:
        """RQ's status of the job, such as `queued` or `started`; None if Redis does not hold it.

        Raises:
            QueueUnavailable: Redis did not answer in time.
        """
        return self._client.run(self.host, self._status())
