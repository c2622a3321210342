"""Results, states and events into Redis: RQ's own keys, told in one MULTI.

Telling is repeatable, and its failure changes nothing about an outcome: what could not be told
stays with the publisher (and, if decided, in the ledger) until Redis is back.  Threads that tell
at the same time share one round trip.
"""

from __future__ import annotations

import base64
import logging
import re
import threading
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from enqueue import envelope, keys
from enqueue.requests import describe
from enqueue.results import Failed, Result, encode_result
from worker.config import WorkerConfig
from worker.context import Delivery
from worker.ledger import Ledger

log = logging.getLogger("hostd")

RESULT_SUCCESSFUL: Final = 1  # rq.results.Result.Type
RESULT_FAILED: Final = 2
RQ_TIME: Final = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d{1,6})?Z")
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
        self._batching = threading.local()

    # ------------------------------------------------------------ the port

    def started(self, delivery: Delivery) -> bool:
        """See `worker.context.Publisher`."""
        now = _rq_time(self._wall())
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
                status = _executed(pipe)[0]
        except RedisError as error:
            log.warning("cannot show %s as started: %s", delivery.id, error)
            return True
        return bool(status != b"canceled")

    def deferred(self, waiting: Collection[str], *, no_more: Collection[str] = ()) -> None:
        """These jobs show as waiting for their turn, and those not.

        Their status stays `queued`: written here it could undo a cancellation or an end.
        """
        with self._redis.pipeline(transaction=True) as pipe:
            if waiting:
                pipe.zadd(self._keys.deferred, dict.fromkeys(waiting, "+inf"))
            if no_more:
                pipe.zrem(self._keys.deferred, *no_more)
            _executed(pipe)

    def tell(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        """See `worker.context.Publisher`."""
        self._add(_Telling(delivery, result, request_id))

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        """See `worker.context.Publisher`."""
        self._add(_Telling(delivery, result, None, quarantined=True))

    def settle(self) -> None:
        """See `worker.context.Publisher`."""
        self.flush()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """What this thread tells within goes out together at the end."""
        self._batching.on = True
        try:
            yield
        finally:
            self._batching.on = False
            self.flush()

    # ------------------------------------------------------------ the wire

    def _add(self, telling: _Telling) -> None:
        with self._pending_lock:
            self._pending.append(telling)
        if not getattr(self._batching, "on", False):
            self.flush()

    def backlog(self) -> int:
        """How many results wait for Redis."""
        with self._pending_lock:
            return len(self._pending)

    def flush(self) -> bool:
        """Tells everything that waits; False if Redis is away."""
        with self._wire:
            with self._pending_lock:
                tellings, self._pending = self._pending, []
            events = self._ledger.untold_events()
            if not tellings and not events:
                return True  # another thread took ours along
            try:
                self._send(tellings, events)
            except RedisError as error:
                log.warning("%d results wait for Redis: %s", len(tellings), error)
                with self._pending_lock:
                    self._pending[:0] = tellings
                return False
            ids = [telling.request_id for telling in tellings if telling.request_id]
            if ids or events:
                self._ledger.told(ids, events_upto=events[-1][0] if events else 0)
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
            _executed(pipe)

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
        pipe.hset(keys.job(id_), mapping=self._job_fields(telling, status))
        pipe.expire(keys.job(id_), ttl_s)
        pipe.xadd(keys.results(id_), self._stream_fields(telling.result), maxlen=10)
        pipe.expire(keys.results(id_), ttl_s)
        pipe.zrem(self._keys.started, id_)
        pipe.zrem(self._keys.deferred, id_)
        pipe.zadd(registry, {id_: int(self._wall()) + ttl_s})

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

    def _job_fields(self, telling: _Telling, status: str) -> dict[Any, Any]:
        """All that stock tools read, so that the job is whole even if Redis had lost it."""
        delivery = telling.delivery
        ended = self._wall()
        began = ended - getattr(telling.result, "took_ms", 0.0) / 1000
        fields: dict[Any, Any] = {
            "status": status,
            "started_at": _rq_time(began),
            "ended_at": _rq_time(ended),
            "worker_name": self._worker_name,
        }
        if telling.request_id is not None:
            fields |= {
                "data": delivery.data,
                "origin": self._keys.queue_name,
                "description": _description(delivery.data),
                "created_at": _time_or(delivery.created_at, began),
                "enqueued_at": _time_or(delivery.enqueued_at, began),
                "timeout": 0,
            }
        return fields

    def _stream_fields(self, result: Result) -> dict[Any, Any]:
        """An entry of RQ's result stream: `rq.results.Result.serialize`."""
        failed = isinstance(result, Failed)
        fields: dict[Any, Any] = {
            "type": RESULT_FAILED if failed else RESULT_SUCCESSFUL,
            "worker_name": self._worker_name,
            "return_value": base64.b64encode(encode_result(result)),
        }
        if failed:
            fields["exc_string"] = base64.b64encode(zlib.compress(str(result).encode()))
        return fields


def _description(call: bytes) -> str:
    try:
        return describe(envelope.decode_body(envelope.decode_call(call).body).request)
    except msgspec.DecodeError:
        return "unreadable request"


def _executed(pipe: Pipeline) -> list[Any]:
    """The replies of the MULTI, which is executed once whatever stands in Redis.

    A command inside a MULTI that fails (WRONGTYPE, say) stops no other, so repeating the whole
    would tell everything twice.  A key that hostd cannot write to is somebody's plant: it is
    deleted and what belongs there is written again.
    """
    commands: list[Any] = [command for command, _ in pipe.command_stack]
    replies = pipe.execute(raise_on_error=False)
    failed = [
        command[1]
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, ResponseError)
    ]
    if failed:
        log.error("deleted, because they are not what hostd keeps there: %s", ascii(failed))
        pipe.delete(*failed)
        again: Callable[..., object] = pipe.execute_command  # redis-py leaves it untyped
        for command in commands:
            if command[1] in failed:
                again(*command)
        pipe.execute(raise_on_error=False)
    return replies


def _time_or(given: bytes, wall_s: float) -> str:
    """A time of RQ's as it came, if stock tools can read it."""
    text = given.decode("ascii", "replace")
    return text if RQ_TIME.fullmatch(text) else _rq_time(wall_s)


def _rq_time(wall_s: float) -> str:
    """As `rq.utils.utcformat` writes it."""
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
