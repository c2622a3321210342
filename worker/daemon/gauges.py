"""The gauges that are read at each request for /metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from worker.daemon.http import gauge
from worker.drain.store import load
from worker.ledger.ledger import Ledger
from worker.scheduling.executors import Executors


@dataclass(frozen=True, slots=True)
class Gauges:
    """How many requests run, wait and are queued, and the instances by status."""

    executors: Executors
    ledger: Ledger
    queue_depth: Callable[[], tuple[int, int] | None]

    def read(self) -> Iterable[GaugeMetricFamily]:
        """All gauges; those of Redis are missing while it is away."""
        running, waiting = self.executors.counts()
        yield gauge("hostd_requests_in_flight", "Requests that run now.", running)
        yield gauge("hostd_requests_waiting", "Requests that wait: turn, retry.", waiting)
        oldest_ms = self.ledger.requests.oldest_ms()
        age_s = time.time() - oldest_ms / 1000 if oldest_ms else 0.0
        yield gauge(
            "hostd_oldest_request_age_seconds", "Age of the oldest unfinished request.", age_s
        )
        states = GaugeMetricFamily("hostd_instances", "Instances by status.", labels=["state"])
        for status, number in self.ledger.instances.count_by_status().items():
            states.add_metric([status], number)
        yield states
        drain = load(self.ledger)
        draining = drain is not None and drain.in_force
        yield gauge("hostd_draining", "1 while new work waits for `hostd undrain`.", draining)
        if (depth := self.queue_depth()) is None:
            return
        queued, failed = depth
        yield gauge("hostd_queue_depth", "Requests in the queue, not yet taken.", queued)
        yield gauge("hostd_dead_requests", "Failed requests in the failed registry.", failed)
