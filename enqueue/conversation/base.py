"""What the two clients share: how they write requests, and what a ticket tells without asking."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from enqueue.conversation import operations as dialogue
from enqueue.conversation.job import NotAfter, SealedRequest, seal
from enqueue.conversation.operations import Cancellation, Run
from enqueue.conversation.sansio import Talk
from enqueue.requests import Request
from enqueue.results import Result
from enqueue.signing import Signer
from enqueue.times import Clock

DEFAULT_ISSUER: Final = "agentd"
DEFAULT_QUEUE_LIMIT: Final = 10_000
DEFAULT_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 1024  # each waiting ticket holds one

Item = Request | tuple[Request, str]


@dataclass(frozen=True, slots=True)
class ClientBase:
    """Writes one issuer's requests; a queue takes up to `queue_limit` of them."""

    signer: Signer | None
    issuer: str
    queue_limit: int
    clock: Clock = field(default_factory=Clock)

    def enqueueing(
        self,
        items: Iterable[Item],
        *,
        host: str,
        not_after: NotAfter,
        issuer: str | None,
        trace: str | None,
    ) -> Talk[list[Run]]:
        """The conversation that stores requests, or `(request, request_id)`, in order.

        Raises:
            BadRequest: one of them breaks the protocol; nothing is sent.
        """
        now_ms = self.clock.now_ms()
        orders: list[SealedRequest] = []
        for item in items:
            request, request_id = item if isinstance(item, tuple) else (item, None)
            order = seal(
                request,
                host=host,
                request_id=request_id,
                not_after=not_after,
                issuer=self.issuer if issuer is None else issuer,
                trace=trace,
                signer=self.signer,
                now_ms=now_ms,
            )
            orders.append(order)
        return dialogue.enqueueing(orders, limit=self.queue_limit, clock=self.clock)

    def waiting(self, run: Run, timeout_s: float) -> Talk[Result]:
        """The conversation that ends with the run's result."""
        return dialogue.waiting(run, timeout_s, limit=self.queue_limit, clock=self.clock)

    def retrying(self, run: Run) -> Talk[Run]:
        """The conversation that runs a failed request again."""
        return dialogue.retrying(run, limit=self.queue_limit, clock=self.clock)

    def cancelling(self, host: str, request_id: str) -> Talk[Cancellation]:
        """The conversation that cancels a request if it waits."""
        return dialogue.cancelling(host, request_id, clock=self.clock)


class TicketFacts:
    """Which request a ticket is for."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def request_id(self) -> str:
        """The idempotency key."""
        return self._run.order.request_id

    @property
    def job_id(self) -> str:
        """RQ's id of the job."""
        return self._run.order.job_id

    @property
    def host(self) -> str:
        """The host that is asked."""
        return self._run.order.host

    @property
    def request(self) -> Request:
        """What is asked."""
        return self._run.order.body.request

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.request_id} on {self.host}>"
