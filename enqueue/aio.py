"""agentd's client for asyncio: `client.py` with await.

async with AsyncHostClient("rediss://redis:6379/0", signer=load_signer(path)) as client:
    ticket = await client.enqueue(StartInstance(...), host="host-a")
    result = await ticket.wait(timeout_s=120)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import redis.asyncio

from enqueue.aio_link import AsyncLink
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
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer

T = TypeVar("T")


class AsyncHostClient:
    """Enqueues requests from one event loop; arguments and errors are those of `HostClient`."""

    def __init__(
        self,
        url_or_redis: str | redis.asyncio.Redis,
        *,
        signer: Signer | None = None,
        issuer: str = DEFAULT_ISSUER,
        queue_limit: int = DEFAULT_QUEUE_LIMIT,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        hosts: Mapping[str, str] | None = None,
    ) -> None:
        self.writer = ClientBase(signer, issuer, queue_limit)
        self._default = AsyncLink(url_or_redis, timeout_s)
        self._links = {host: AsyncLink(url, timeout_s) for host, url in (hosts or {}).items()}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections that the client opened."""
        for link in (self._default, *self._links.values()):
            await link.aclose()

    async def enqueue(
        self,
        request: Request,
        *,
        host: str,
        request_id: str | None = None,
        not_after: NotAfter = None,
        issuer: str | None = None,
        trace: str | None = None,
    ) -> AsyncTicket:
        """As `HostClient.enqueue`."""
        item: Item = request if request_id is None else (request, request_id)
        (ticket,) = await self.enqueue_many(
            [item], host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return ticket

    async def enqueue_many(
        self,
        items: Iterable[Item],
        *,
        host: str,
        not_after: NotAfter = None,
        issuer: str | None = None,
        trace: str | None = None,
    ) -> list[AsyncTicket]:
        """As `HostClient.enqueue_many`."""
        talk = self.writer.enqueueing(
            items, host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return [AsyncTicket(self, run) for run in await self.converse(host, talk)]

    async def ticket(self, request_id: str, *, host: str) -> AsyncTicket:
        """As `HostClient.ticket`."""
        return AsyncTicket(self, await self.converse(host, dialogue.attaching(host, request_id)))

    async def cancel(self, request_id: str, *, host: str) -> Cancellation:
        """As `HostClient.cancel`."""
        return await self.converse(host, self.writer.cancelling(host, request_id))

    async def jobs(
        self, *, host: str, states: Sequence[JobState] = PENDING, limit: int = 100
    ) -> list[JobLine]:
        """As `HostClient.jobs`."""
        return await self.converse(host, listing.jobs(host, states, limit=limit))

    async def events(self, *, host: str, after: str = "0", wait_s: float = 0.0) -> list[Event]:
        """As `HostClient.events`."""
        return await self.converse(host, listing.events(host, after=after, wait_s=wait_s))

    async def converse(self, host: str, talk: Talk[T]) -> T:
        """The outcome of a conversation with the Redis of `host`."""
        link = self._links.get(host, self._default)
        try:
            step = next(talk)
            while True:
                step = advance(talk, await _performed(step, link))
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome


async def _performed(step: RoundTrip | Sleep, link: AsyncLink) -> Replies | LinkDown:
    if isinstance(step, Sleep):
        await asyncio.sleep(step.seconds)
        return []
    try:
        return await link.exchange(step)
    except LinkDown as down:
        return down


class AsyncTicket(TicketFacts):
    """A request on a host's queue."""

    def __init__(self, client: AsyncHostClient, run: Run) -> None:
        super().__init__(run)
        self._client = client

    async def wait(self, timeout_s: float) -> Result:
        """As `Ticket.wait`; cancelling it does not cancel the request."""
        talk = self._client.writer.waiting(self._run, timeout_s)
        result = await self._client.converse(self.host, talk)
        self._run = self._run.ended(result)
        return result

    async def retry(self) -> AsyncTicket:
        """As `Ticket.retry`."""
        talk = self._client.writer.retrying(self._run)
        return AsyncTicket(self._client, await self._client.converse(self.host, talk))

    async def cancel(self) -> Cancellation:
        """As `Ticket.cancel`."""
        return await self._client.cancel(self.request_id, host=self.host)

    async def status(self) -> str | None:
        """As `Ticket.status`."""
        return await self._client.converse(self.host, dialogue.status_of(self._run.order))
