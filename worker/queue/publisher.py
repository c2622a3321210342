"""Publishes results, states and events in Redis, in RQ's own keys, each batch in one MULTI.

Publishing can be repeated, and its failure does not change an outcome: what could not be published
stays in memory (and, if decided, in the ledger) until Redis is back.  Threads that publish at the
same time share one round trip.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from enqueue import keys
from enqueue.results import Failed, Result
from enqueue.times import format_rq
from worker.config import WorkerConfig
from worker.ledger.ledger import Ledger
from worker.protocol.delivery import Delivery
from worker.queue.job_fields import outcome_fields, stream_fields, whole_job
from worker.queue.transaction import execute_repairing

log = logging.getLogger("hostd")

CANCELED: Final = ("conflict/superseded", "conflict/cancelled")


@dataclass(frozen=True, slots=True)
class _Publication:
    """One result that is to be published."""

    delivery: Delivery
    result: Result
    request_id: str | None
    quarantined: bool = False


class RedisPublisher:
    """Publishes for one host.  May be used from any thread."""

    def __init__(
        self,
        redis: Redis,
        ledger: Ledger,
        host_keys: keys.HostKeys,
        config: WorkerConfig,
        *,
        worker_name: str,
        wall: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._ledger = ledger
        self._keys = host_keys
        self._config = config
        self._worker_name = worker_name
        self._wall = wall
        self._pending: list[_Publication] = []
        self._pending_lock = threading.Lock()
        self._wire = threading.Lock()
        self._away = False
        self._batching = threading.local()

    # ------------------------------------------------------------ the port

    def mark_started(self, delivery: Delivery) -> bool:
        if self._away:
            return True
        now = format_rq(self._wall() * 1000)
        job = keys.job(delivery.id)
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hget(job, "status")
                pipe.hset(
                    job,
                    mapping={
                        "status": "started",
                        "started_at": now,
                        "worker_name": self._worker_name,
                    },
                )
                pipe.persist(job)
                pipe.zadd(self._keys.started, {delivery.id: "+inf"})
                pipe.zrem(self._keys.deferred, delivery.id)
                status = execute_repairing(pipe)[0]
        except RedisError as error:
            self._away = True
            log.warning("cannot show %s as started: %s", delivery.id, error)
            return True
        return bool(status != b"canceled")

    def mark_postponed(self, delivery: Delivery) -> None:
        job = keys.job(delivery.id)
        try:
            if self._redis.hget(job, "status") != b"started":
                return  # cancelled by RQ while it ran: the next look ends it
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(job, "status", "queued")
                pipe.zrem(self._keys.started, delivery.id)
                pipe.zadd(self._keys.deferred, {delivery.id: "+inf"})
                execute_repairing(pipe)
        except RedisError as error:
            log.warning("cannot show %s as postponed: %s", delivery.id, error)

    def mark_deferred(self, waiting: Collection[str], *, no_more: Collection[str] = ()) -> None:
        """Shows jobs as waiting for their turn, and `no_more` of them not any more.

        Their status stays `queued`: written here it could overwrite a cancellation or a result.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            if waiting:
                pipe.zadd(self._keys.deferred, dict.fromkeys(waiting, "+inf"))
            if no_more:
                pipe.zrem(self._keys.deferred, *no_more)
            execute_repairing(pipe)

    def publish(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        self._add(_Publication(delivery, result, request_id))

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        self._add(_Publication(delivery, result, None, quarantined=True))

    def flush_pending(self) -> None:
        self._flush(probing=False)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Publishes what this thread publishes within together, at the end."""
        self._batching.on = True
        try:
            yield
        finally:
            self._batching.on = False
            self._flush(probing=False)

    # ------------------------------------------------------------ to Redis

    def _add(self, publication: _Publication) -> None:
        with self._pending_lock:
            self._pending.append(publication)
        if not getattr(self._batching, "on", False):
            self._flush(probing=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Blocks publishing within."""
        with self._wire:
            yield

    def backlog(self) -> int:
        """How many results wait for Redis."""
        with self._pending_lock:
            return len(self._pending)

    def flush(self) -> bool:
        """Publishes all that waits; False if Redis is unreachable.

        While it is, no other method tries Redis: results wait until a call of this one, which the
        consumer and the housekeeping repeat, succeeds.
        """
        return self._flush(probing=True)

    def _flush(self, *, probing: bool) -> bool:
        if self._away and not probing:
            return False
        with self._wire:
            if self._away and not probing:
                return False
            with self._pending_lock:
                pending, self._pending = self._pending, []
            events = self._ledger.outbox.unpublished()
            if not pending and not events:
                self._away = False
                return True  # another thread has published ours
            try:
                self._send(pending, events)
            except RedisError as error:
                self._away = True
                log.warning("%d results wait for Redis: %s", len(pending), error)
                with self._pending_lock:
                    self._pending[:0] = pending
                return False
            self._away = False
            ids = [publication.request_id for publication in pending if publication.request_id]
            if ids or events:
                self._ledger.mark_published(ids, events_upto=events[-1][0] if events else 0)
            return True

    def _send(self, pending: list[_Publication], events: list[tuple[int, bytes]]) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            for publication in pending:
                self._queue(pipe, publication)
            for seq, event in events:
                pipe.xadd(
                    self._keys.events,
                    {"seq": seq, "event": event},
                    maxlen=self._config.events_cap,
                    approximate=True,
                )
            execute_repairing(pipe)

    def _queue(self, pipe: Pipeline, publication: _Publication) -> None:
        id_, failed = publication.delivery.id, isinstance(publication.result, Failed)
        ttl_s = self._config.failure_ttl_s if failed else self._config.result_ttl_s
        registry, status = self._registry(publication.result)
        if publication.quarantined:
            self._queue_quarantine(pipe, publication)
        raw_id = id_.encode("utf-8", "surrogateescape")
        pipe.lrem(self._keys.intermediate, 0, raw_id)  # type: ignore[arg-type]  # redis-py's str is any value
        if not publication.delivery.data:
            return  # the job does not exist, and its id may be anything
        pipe.hset(keys.job(id_), mapping=self._fields(publication, status))
        pipe.expire(keys.job(id_), ttl_s)
        pipe.xadd(
            keys.results(id_), stream_fields(publication.result, self._worker_name), maxlen=10
        )
        pipe.expire(keys.results(id_), ttl_s)
        pipe.zrem(self._keys.started, id_)
        pipe.zrem(self._keys.deferred, id_)
        pipe.zadd(registry, {id_: int(self._wall()) + ttl_s})

    def _fields(self, publication: _Publication, status: str) -> dict[Any, Any]:
        ended_s = self._wall()
        began_s = ended_s - getattr(publication.result, "took_ms", 0.0) / 1000
        fields = outcome_fields(status, began_s, ended_s, self._worker_name)
        if publication.request_id is not None:
            fields |= whole_job(publication.delivery, self._keys.queue_name, began_s)
        return fields

    def _queue_quarantine(self, pipe: Pipeline, publication: _Publication) -> None:
        entry = {
            "job_id": publication.delivery.shown,
            "reason": str(publication.result),
            "at_ms": int(self._wall() * 1000),
        }
        pipe.rpush(self._keys.quarantine, msgspec.json.encode(entry))
        pipe.ltrim(self._keys.quarantine, -self._config.quarantine_cap, -1)

    def _registry(self, result: Result) -> tuple[str, str]:
        """RQ's registry and status for a result."""
        if not isinstance(result, Failed):
            return self._keys.finished, "finished"
        if result.code in CANCELED:
            return self._keys.canceled, "canceled"
        return self._keys.failed, "failed"
