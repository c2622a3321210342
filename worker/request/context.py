"""Everything that a request needs, built by `worker.wiring`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from enqueue.results import Pong, Result
from enqueue.times import Clock
from worker.config import Config
from worker.ledger.ledger import Ledger
from worker.model.names import InstanceRef
from worker.plans.settings import Settings
from worker.ports import Host
from worker.protocol.delivery import Delivery
from worker.protocol.metrics import Metrics
from worker.protocol.verification import Policy
from worker.scheduling.executors import Executors
from worker.scheduling.locks import Locks
from worker.scheduling.suspects import CrashSuspects
from worker.scheduling.unreconciled import Unreconciled


class Publisher(Protocol):
    """Publishes results and states.  Its failures do not change an outcome."""

    def mark_started(self, delivery: Delivery) -> bool:
        """Shows the job as started; False if it was cancelled while it waited."""

    def mark_postponed(self, delivery: Delivery) -> None:
        """Shows the job as waiting for its next attempt; it may be cancelled again."""

    def publish(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        """Writes the result to Redis, now or once Redis is back.

        `request_id` is given if the ledger has it as decided.
        """

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        """Publishes the result, and adds the job to the quarantine list with its reason."""

    def flush_pending(self) -> None:
        """Waits until what other threads are publishing now is published or has failed."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts that `worker.job` works with.

    `random` is uniform in 0..1; `watch` is called for each instance whose VMM may live from now on.
    """

    config: Config
    settings: Settings
    policy: Policy
    host: Host
    ledger: Ledger
    locks: Locks
    publisher: Publisher
    executors: Executors
    metrics: Metrics
    clock: Clock
    pong: Callable[[], Pong]
    random: Callable[[], float]
    suspects: CrashSuspects = field(default_factory=CrashSuspects)
    unreconciled: Unreconciled = field(default_factory=Unreconciled)
    watch: Callable[[InstanceRef], None] = lambda ref: None
