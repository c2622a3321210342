"""All that a request needs, as `worker.wiring` built it."""

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
    """Where results and states go.  Its failures change nothing about an outcome."""

    def mark_started(self, delivery: Delivery) -> bool:
        """The job shows as started; False if somebody has cancelled it while it waited."""

    def mark_postponed(self, delivery: Delivery) -> None:
        """The job shows as waiting for its next attempt, and may be cancelled again."""

    def publish(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        """The result stands in Redis, now or once Redis is back.

        `request_id` is given for what the ledger holds as decided.
        """

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        """As `publish`, and the entry is in the quarantine list with its reason."""

    def flush_pending(self) -> None:
        """What was being told when this was called has been told, or has failed."""


@dataclass(frozen=True, slots=True)
class Context:
    """The parts that `worker.job` works with.

    `random` is uniform in 0..1; `watch` is told of each instance whose VMM may live from now on.
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
