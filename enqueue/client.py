"""agentd's client: puts requests on a host's queue and waits for their results.

with HostClient("rediss://redis:6379/0", signer=load_signer(path)) as client:
    ticket = client.enqueue(StartInstance(...), host="host-a")
    result = ticket.wait(timeout_s=120)
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import redis

from enqueue.conversation import listing
from enqueue.conversation import operations as dialogue
from enqueue.conversation.base import (
    DEFAULT_ISSUER,
    DEFAULT_QUEUE_LIMIT,
    DEFAULT_TIMEOUT_S,
    ClientBase,
    Item,
    TicketFacts,
)
from enqueue.conversation.job import NotAfter
from enqueue.conversation.listing import PENDING, Event, JobLine, JobState
from enqueue.conversation.operations import Cancellation, Run
from enqueue.conversation.sansio import LinkDown, Replies, RoundTrip, Sleep, Talk, advance
from enqueue.link import Link
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer

T = TypeVar("T")


class HostClient:
    """Enqueues requests; safe to share between threads.

    `url_or_redis` serves every host that `hosts` does not send elsewhere.  A client made from a
    URL answers or raises within about `timeout_s` a round trip, and repeats a lost one once; a
    `redis.Redis` given instead (Sentinel, say) keeps its own time and retries for connecting, and
    is not closed.  A queue holds at most `queue_limit` requests, waiting and running.

    Raises:
        ValueError: a URL is none.
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
        self.writer = ClientBase(signer, issuer, queue_limit)
        self._default = Link(url_or_redis, timeout_s)
        self._links = {host: Link(url, timeout_s) for host, url in (hosts or {}).items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that the client opened."""
        for link in (self._default, *self._links.values()):
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
        """The ticket of the request, stored and pushed unless its id was there already.

        `request_id` makes it safe to call again; by default it is new (UUIDv7).  `not_after` is an
        aware datetime or seconds from now, at most 7 days (default 24 h): past it the host does
        not begin.  `trace` is a W3C traceparent.

        Raises:
            BadRequest: a field breaks the protocol; nothing was sent.
            QueueFull: nothing was stored.
            QueueUnavailable: Redis did not answer in time; says whether it may be stored.
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
        """The tickets of many requests in one round trip, pushed in order, all or none.

        An item is a request or `(request, request_id)`.

        Raises:
            BadRequest, QueueFull, QueueUnavailable: as in `enqueue`, for all of them.
            RequestIdReused: an id names another request; the other items are stored.
        """
        talk = self.writer.enqueueing(
            items, host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return [Ticket(self, run) for run in self.converse(host, talk)]

    def ticket(self, request_id: str, *, host: str) -> Ticket:
        """The ticket of a request that somebody has enqueued.

        Raises:
            UnknownRequest: Redis holds no such request.
            QueueUnavailable: Redis did not answer in time.
        """
        return Ticket(self, self.converse(host, dialogue.attaching(host, request_id)))

    def cancel(self, request_id: str, *, host: str) -> Cancellation:
        """`cancelled` if the request waited: it will not be begun, and ends `conflict/cancelled`.

        What is `running` goes on, what has `ended` stays; of `unknown` ones Redis holds nothing.

        Raises:
            QueueUnavailable: Redis did not answer in time; cancelling again is safe.
        """
        return self.converse(host, self.writer.cancelling(host, request_id))

    def jobs(
        self, *, host: str, states: Sequence[JobState] = PENDING, limit: int = 100
    ) -> list[JobLine]:
        """Up to `limit` jobs of each list and registry asked for, the oldest first.

        Raises:
            QueueUnavailable: Redis did not answer in time.
        """
        return self.converse(host, listing.jobs(host, states, limit=limit))

    def events(self, *, host: str, after: str = "0", wait_s: float = 0.0) -> list[Event]:
        """The host's events after an id of its stream, up to 1000; waits for the first.

        An id of 0 is before all events; `now` returns the last one there is.

        Raises:
            QueueUnavailable: Redis did not answer in time, or `after` is no id.
        """
        return self.converse(host, listing.events(host, after=after, wait_s=wait_s))

    def converse(self, host: str, talk: Talk[T]) -> T:
        """The outcome of a conversation with the Redis of `host`."""
        link = self._links.get(host, self._default)
        try:
            step = next(talk)
            while True:
                step = advance(talk, _performed(step, link))
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome


def _performed(step: RoundTrip | Sleep, link: Link) -> Replies | LinkDown:
    if isinstance(step, Sleep):
        time.sleep(step.seconds)
        return []
    try:
        return link.exchange(step)
    except LinkDown as down:
        return down


class Ticket(TicketFacts):
    """A request on a host's queue."""

    def __init__(self, client: HostClient, run: Run) -> None:
        super().__init__(run)
        self._client = client

    def wait(self, timeout_s: float) -> Result:
        """The result of this run of the request, not of an earlier one.

        A job that Redis has lost meanwhile is sent again; Redis may be away for a while.

        Raises:
            WaitTimeout: there is none after `timeout_s`; the request goes on.
            RequestExpired: Redis has lost the job and it is too late to send it again.
            RequestIdReused: Redis has lost the job, and its id now names another request.
            QueueUnavailable: Redis refuses to be read.
        """
        talk = self._client.writer.waiting(self._run, timeout_s)
        result = self._client.converse(self.host, talk)
        self._run = self._run.ended(result)
        return result

    def retry(self) -> Ticket:
        """The ticket of a new run of the failed request.

        Raises:
            NotRetryable: it did not fail.
            QueueFull, QueueUnavailable: as in `HostClient.enqueue`.
        """
        talk = self._client.writer.retrying(self._run)
        return Ticket(self._client, self._client.converse(self.host, talk))

    def cancel(self) -> Cancellation:
        """As `HostClient.cancel`; `wait` then returns what the host has made of it."""
        return self._client.cancel(self.request_id, host=self.host)

    def status(self) -> str | None:
        """RQ's status of the job, as in `queued` or `started`; None if Redis does not hold it.

        Raises:
            QueueUnavailable: Redis did not answer in time.
        """
        return self._client.converse(self.host, dialogue.status_of(self._run.order))
