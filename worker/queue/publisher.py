"""Results, states and events into Redis: RQ's own keys, told in one MULTI.

Telling is repeatable, and its failure changes nothing about an outcome: what could not be told
stays with the publisher (and, if decided, in the ledger) until Redis is back.  Threads that tell
at the same time share one round trip.
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
class _Telling:
    """One result on its way."""

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
        self._pending: list[_Telling] = []
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
                return  # RQ's own cancel has come while it ran: the next look ends it
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(job, "status", "queued")
                pipe.zrem(self._keys.started, delivery.id)
                pipe.zadd(self._keys.deferred, {delivery.id: "+inf"})
                execute_repairing(pipe)
        except RedisError as error:
            log.warning("cannot show %s as put off: %s", delivery.id, error)

    def deferred(self, waiting: Collection[str], *, no_more: Collection[str] = ()) -> None:
        """These jobs show as waiting for their turn, and those not.

        Their status stays `queued`: written here it could undo a cancellation or an end.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            if waiting:
                pipe.zadd(self._keys.deferred, dict.fromkeys(waiting, "+inf"))
            if no_more:
                pipe.zrem(self._keys.deferred, *no_more)
            execute_repairing(pipe)

    def publish(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        self._add(_Telling(delivery, result, request_id))

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        self._add(_Telling(delivery, result, None, quarantined=True))

    def flush_pending(self) -> None:
        self._flush(probing=False)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What this thread tells within goes out together at the end."""
        self._batching.on = True
        try:
            yield
        finally:
            self._batching.on = False
            self._flush(probing=False)

    # ------------------------------------------------------------ the wire

    def _add(self, telling: _Telling) -> None:
        with self._pending_lock:
            self._pending.append(telling)
        if not getattr(self._batching, "on", False):
            self._flush(probing=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is told within."""
        with self._wire:
            yield

    def backlog(self) -> int:
        """How many results wait for Redis."""
        with self._pending_lock:
            return len(self._pending)

    def flush(self) -> bool:
        """Tells everything that waits; False if Redis is away.

        Then what is told only waits, and no thread for Redis, until a call of this, by those who
        look again and again (the consumer and the housekeeping), finds it back.
        """
        return self._flush(probing=True)

    def _flush(self, *, probing: bool) -> bool:
        if self._away and not probing:
            return False
        with self._wire:
            if self._away and not probing:
                return False
            with self._pending_lock:
                tellings, self._pending = self._pending, []
            events = self._ledger.outbox.unpublished()
            if not tellings and not events:
                self._away = False
                return True  # another thread took ours along
            try:
                self._send(tellings, events)
            except RedisError as error:
                self._away = True
                log.warning("%d results wait for Redis: %s", len(tellings), error)
                with self._pending_lock:
                    self._pending[:0] = tellings
                return False
            self._away = False
            ids = [telling.request_id for telling in tellings if telling.request_id]
            if ids or events:
                self._ledger.mark_published(ids, events_upto=events[-1][0] if events else 0)
            return True

    def _send(self, tellings: list[_Telling], events: list[tuple[int, bytes]]) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            for telling in tellings:
                self._queue(pipe, telling)
            for seq, event in events:
                pipe.xadd(
                    self._keys.events,
                    {"seq": seq, "event": event},
                    maxlen=self._config.events_cap,
                    approximate=True,
                )
            execute_repairing(pipe)

    def _queue(self, pipe: Pipeline, telling: _Telling) -> None:
        id_, failed = telling.delivery.id, isinstance(telling.result, Failed)
        ttl_s = self._config.failure_ttl_s if failed else self._config.result_ttl_s
        registry, status = self._registry(telling.result)
        if telling.quarantined:
            self._queue_quarantine(pipe, telling)
        raw_id = id_.encode("utf-8", "surrogateescape")
        pipe.lrem(self._keys.intermediate, 0, raw_id)  # type: ignore[arg-type]  # redis-py's str is any value
        if not telling.delivery.data:
            return  # there is no job to write to, and its id may be anything
        pipe.hset(keys.job(id_), mapping=self._fields(telling, status))
        pipe.expire(keys.job(id_), ttl_s)
        pipe.xadd(keys.results(id_), stream_fields(telling.result, self._worker_name), maxlen=10)
        pipe.expire(keys.results(id_), ttl_s)
        pipe.zrem(self._keys.started, id_)
        pipe.zrem(self._keys.deferred, id_)
        pipe.zadd(registry, {id_: int(self._wall()) + ttl_s})

    def _fields(self, telling: _Telling, status: str) -> dict[Any, Any]:
        ended_s = self._wall()
        began_s = ended_s - getattr(telling.result, "took_ms", 0.0) / 1000
        fields = outcome_fields(status, began_s, ended_s, self._worker_name)
        if telling.request_id is not None:
            fields |= whole_job(telling.delivery, self._keys.queue_name, began_s)
        return fields

    def _queue_quarantine(self, pipe: Pipeline, telling: _Telling) -> None:
        entry = {
            "job_id": telling.delivery.shown,
            "reason": str(telling.result),
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
