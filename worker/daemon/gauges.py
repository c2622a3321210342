"""The gauges that are read when somebody asks for /metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily
from redis import Redis
from redis.exceptions import RedisError

from enqueue.keys import HostKeys
from worker.daemon.http import gauge
from worker.drain.store import load
from worker.ledger.ledger import Ledger
from worker.scheduling.executors import Executors


@dataclass(frozen=True, slots=True)
class Gauges:
    """How much runs, waits, and is queued."""

    executors: Executors
    ledger: Ledger
    redis: Redis
    keys: HostKeys

    def read(self) -> Iterable[GaugeMetricFamily]:
        """All of them; those of Redis are absent while it is away."""
        running, waiting = self.executors.counts()
        yield gauge("hostd_requests_in_flight", "Requests that run now.", running)
        yield gauge("hostd_requests_waiting", "Requests that wait: turn, retry.", waiting)
        oldest_ms = self.ledger.oldest_ms()
        age_s = time.time() - oldest_ms / 1000 if oldest_ms else 0.0
        yield gauge(
            "hostd_oldest_request_age_seconds", "Age of the oldest unfinished request.", age_s
        )
        states = GaugeMetricFamily("hostd_instances", "Instances by status.", labels=["state"])
        for status, number in self.ledger.statuses().items():
            states.add_metric([status], number)
        yield states
        drain = load(self.ledger)
        draining = drain is not None and drain.in_force
        yield gauge("hostd_draining", "1 while new work waits for `hostd undrain`.", draining)
        try:
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.llen(self.keys.queue)
                pipe.zcard(self.keys.failed)
                depth, dead = pipe.execute()
        except RedisError:
            return
        yield gauge("hostd_queue_depth", "Requests in the queue, not yet taken.", depth)
        yield gauge("hostd_dead_requests", "Failed requests in the failed registry.", dead)
