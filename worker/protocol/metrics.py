"""Prometheus metrics, counted from results.  Labels are bounded, never an id."""

from __future__ import annotations

from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from enqueue.requests import Request
from enqueue.results import Done, Failed, FailureClass, Pong, Result
from worker.protocol.events import Kind, outcome_of

OPERATIONS = tuple(request.__name__ for request in get_args(Request))
OUTCOMES = ("done", *get_args(FailureClass))
FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The names of docs/protocol.md, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        r = self.registry
        self.requests = Counter("hostd_requests", "Requests ended.", ["op", "outcome"], registry=r)
        self.duration = Histogram(
            "hostd_request_duration_seconds",
            "From the begin of the first attempt to the result.",
            ["op"], buckets=FAST, registry=r,
        )  # fmt: skip
        self.queue_latency = Histogram(
            "hostd_queue_latency_seconds",
            "From issue to the begin of the first attempt.",
            ["op"], buckets=FAST, registry=r,
        )  # fmt: skip
        self.step_duration = Histogram(
            "hostd_step_duration_seconds", "One step of a plan.", ["step"],
            buckets=FAST, registry=r,
        )  # fmt: skip
        self.lock_wait = Histogram(
            "hostd_lock_wait_seconds", "Waiting for kernel locks.", buckets=FAST, registry=r
        )
        self.retries = Counter("hostd_retries", "Attempts postponed.", ["op", "code"], registry=r)
        self.rejected = Counter("hostd_rejected", "Requests refused.", ["code"], registry=r)
        self.recovered = Counter(
            "hostd_recovered_requests", "Requests resumed at start.", registry=r
        )
        self.reconciled = Counter(
            "hostd_reconciled", "Instances reconciled with the host.", ["finding"],
            registry=r,
        )  # fmt: skip
        self.orphans = Gauge(
            "hostd_orphans", "Resources with hostd's mark that belong to nothing on record.",
            ["kind"], registry=r,
        )  # fmt: skip
        self.swept = Counter("hostd_swept", "Leftovers removed.", ["kind"], registry=r)
        for kind in Kind:
            self.orphans.labels(kind.value)
            self.swept.labels(kind.value)
        self.image_bytes = Gauge(
            "hostd_sleep_image_bytes", "Size of the sleep image made last.", registry=r
        )
        for op in OPERATIONS:  # a rate needs a series from before its first event
            for outcome in OUTCOMES:
                self.requests.labels(op, outcome)
        self.build = Info("hostd_build", "What runs here.", registry=r)

    def ended(self, result: Result) -> None:
        """Counts a request's end."""
        outcome = outcome_of(result)
        self.requests.labels(result.op, outcome).inc()
        if isinstance(result, Failed) and result.failure_class == "rejected":
            self.rejected.labels(result.code).inc()
        if isinstance(result, Pong) or not result.attempts:
            return
        self.duration.labels(result.op).observe(result.took_ms / 1000)
        self.queue_latency.labels(result.op).observe(result.queued_ms / 1000)
        if isinstance(result, Done) and not result.replayed:
            self.image_made(result)
        for step in result.steps:
            self.step_duration.labels(step.name).observe(step.ms / 1000)

    def image_made(self, result: Done) -> bool:
        """Whether the request made a sleep image, whose size is the newest from now on."""
        size_bytes = result.detail.get("image_bytes")
        if size_bytes is not None:
            self.image_bytes.set(size_bytes)
        return size_bytes is not None
