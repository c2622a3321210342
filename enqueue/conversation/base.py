"""What both clients share: where each host's Redis is, and how conversations are begun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Generic, TypeVar

from enqueue.conversation import operations
from enqueue.conversation.job import NotAfter, seal
from enqueue.conversation.operations import Cancellation, Run
from enqueue.conversation.sansio import Conversation
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer
from enqueue.times import Clock

DEFAULT_ISSUER: Final = "agentd"
DEFAULT_QUEUE_LIMIT: Final = 10_000
DEFAULT_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 1024  # each waiting ticket holds one

Item = Request | tuple[Request, str]  # a request, or a request and its id

Link = TypeVar("Link")


class ClientBase(Generic[Link]):
    """A client without its calls: `default` links to every host that is not in `links`."""

    def __init__(
        self,
        default: Link,
        links: Mapping[str, Link],
        *,
        signer: Signer | None,
        issuer: str,
        queue_limit: int,
    ) -> None:
        self.clock = Clock()
        self.queue_limit = queue_limit
        self._default, self._links = default, links
        self._signer, self._issuer = signer, issuer

    def _all_links(self) -> list[Link]:
        return [self._default, *self._links.values()]

    def _link(self, host: str) -> Link:
        return self._links.get(host, self._default)

    def _enqueue(
        self,
        items: Iterable[Item],
        *,
        host: str,
        not_after: NotAfter,
        issuer: str | None,
        trace: str | None,
    ) -> Conversation[list[Run]]:
        now_ms = self.clock.now_ms()
        sealed = [
            seal(
                request,
                host=host,
                request_id=request_id,
                not_after=not_after,
                issuer=self._issuer if issuer is None else issuer,
                trace=trace,
                signer=self._signer,
                now_ms=now_ms,
            )
            for request, request_id in map(_with_id, items)
        ]
        return operations.enqueue(sealed, limit=self.queue_limit, clock=self.clock)

    def _cancel(self, host: str, request_id: str) -> Conversation[Cancellation]:
        return operations.cancel(host, request_id, clock=self.clock)


def _with_id(item: Item) -> tuple[Request, str | None]:
    return item if isinstance(item, tuple) else (item, None)


Client = TypeVar("Client", bound=ClientBase[Any])


class TicketBase(Generic[Client]):
    """A ticket without its calls: which run of which request it is for."""

    def __init__(self, client: Client, run: Run) -> None:
        self._client = client
        self._run = run

    @property
    def request_id(self) -> str:
        """The idempotency key."""
        return self._run.sealed.request_id

    @property
    def job_id(self) -> str:
        """RQ's id of the job."""
        return self._run.sealed.job_id

    @property
    def host(self) -> str:
        """The host that the request is addressed to."""
        return self._run.sealed.host

    @property
    def request(self) -> Request:
        """The request itself."""
        return self._run.sealed.body.request

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request_id} on {self.host}>"

    def _wait(self, timeout_s: float) -> Conversation[Result]:
        client = self._client
        return operations.wait(self._run, timeout_s, limit=client.queue_limit, clock=client.clock)

    def _retry(self) -> Conversation[Run]:
        client = self._client
        return operations.retry(self._run, limit=client.queue_limit, clock=client.clock)

    def _status(self) -> Conversation[str | None]:
        return operations.status(self._run.sealed)
