"""agentd's client for asyncio: `client.py` with await.

async with AsyncHostClient("rediss://redis:6379/0", signer=load_signer(path)) as client:
    ticket = await client.enqueue(StartInstance(...), host="host-a")
    result = await ticket.wait(timeout_s=120)
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeVar

import redis.asyncio

from enqueue.aio_link import AsyncLink
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
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer

T = TypeVar("T")


class AsyncHostClient(ClientBase[AsyncLink]):
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
        links = {host: AsyncLink(url, timeout_s) for host, url in (hosts or {}).items()}
        default = AsyncLink(url_or_redis, timeout_s)
        super().__init__(default, links, signer=signer, issuer=issuer, queue_limit=queue_limit)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections that the client opened."""
        for link in self._all_links():
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
        conversation = self._enqueue(
            items, host=host, not_after=not_after, issuer=issuer, trace=trace
        )
        return [AsyncTicket(self, run) for run in await self.run(host, conversation)]

    async def ticket(self, request_id: str, *, host: str) -> AsyncTicket:
        """As `HostClient.ticket`."""
        return AsyncTicket(self, await self.run(host, operations.find(host, request_id)))

    async def cancel(self, request_id: str, *, host: str) -> Cancellation:
        """As `HostClient.cancel`."""
        return await self.run(host, self._cancel(host, request_id))

    async def jobs(
        self, *, host: str, states: Sequence[JobState] = PENDING, limit: int = 100
    ) -> list[JobLine]:
        """As `HostClient.jobs`."""
        return await self.run(host, listing.jobs(host, states, limit=limit))

    async def events(self, *, host: str, after: str = "0", wait_s: float = 0.0) -> list[Event]:
        """As `HostClient.events`."""
        return await self.run(host, listing.events(host, after=after, wait_s=wait_s))

    async def run(self, host: str, conversation: Conversation[T]) -> T:
        """The outcome of a conversation with the Redis of `host`."""
        link = self._link(host)
        try:
            wanted = next(conversation)
            while True:
                wanted = step(conversation, await _perform(wanted, link))
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome


async def _perform(wanted: RoundTrip | Sleep, link: AsyncLink) -> Replies | LinkDown:
    if isinstance(wanted, Sleep):
        await asyncio.sleep(wanted.seconds)
        return []
    try:
        return await link.round_trip(wanted)
    except LinkDown as down:
        return down


class AsyncTicket(TicketBase[AsyncHostClient]):
    """A request on a host's queue; waits for one run of it."""

    async def wait(self, timeout_s: float) -> Result:
        """As `Ticket.wait`.  Cancelling this task does not cancel the request."""
        result = await self._client.run(self.host, self._wait(timeout_s))
        self._run = self._run.ended(result)
        return result

    async def retry(self) -> AsyncTicket:
        """As `Ticket.retry`."""
        return AsyncTicket(self._client, await self._client.run(self.host, self._retry()))

    async def cancel(self) -> Cancellation:
        """As `Ticket.cancel`."""
        return await self._client.cancel(self.request_id, host=self.host)

    async def status(self) -> str | None:
        """As `Ticket.status`."""
        return await self._client.run(self.host, self._status())
