"""The only subclasses of RQ: one consumer that takes every job and trusts none.

RQ's SimpleWorker provides registration, heartbeat and state, so that `rq info` and rq-dashboard
show the host.  Everything by which a writer to Redis could control a stock worker is disabled
(each proven against rq 3.0 in tests/redis/test_hardening.py): a job's hash is never restored into
an `rq.job.Job`, only its `data` and two times are read, and they decode by allow-list; there is no
pubsub, no suspension, no scheduler, no registry maintenance, no callback, no import by name.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NoReturn

from redis import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.worker import WorkerStatus

from enqueue import keys
from worker.protocol.delivery import Delivery
from worker.queue.registries import Registries
from worker.queue.serializer import MsgspecSerializer
from worker.queue.transaction import is_wrong_type

log = logging.getLogger("hostd")

BLOCK_S: Final = 1  # SIGTERM waits for it
FULL_PAUSE_S: Final = 0.05
TAKE_AT_MOST: Final = 256
WORKER_TTL_S: Final = 30
# Much shorter than the 2 s within which hostd must work again once Redis is back.
RECONNECT_S: Final = (0.05, 0.1, 0.2, 0.4)
REFUSED_FOR_NOW: Final = (ReadOnlyError, OutOfMemoryError)
FIELDS: Final = ("data", "created_at", "enqueued_at", "status")


class HostJob(Job):
    """A job that RQ must never execute; an attempt to do so is a bug."""

    @property
    def func(self) -> NoReturn:
        """Raises: nothing is imported by a name found in Redis."""
        raise RuntimeError("hostd executes no function by name")


class HostQueue(Queue):
    """One host's queue."""

    job_class = HostJob


class HostWorker(SimpleWorker):
    """Takes jobs and delivers them; `worker.job` says what happens to them."""

    job_class = HostJob
    queue_class = HostQueue

    def __init__(
        self,
        redis: Redis,
        host_keys: keys.HostKeys,
        *,
        name: str,
        deliver: Callable[[Sequence[Delivery]], None],
        refuse: Callable[[Delivery, str], None],
        room: Callable[[], int],
        arrived: Callable[[], object] = lambda: None,
        paused: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """`deliver` is called with a batch in order, `refuse` with an unreadable job and a reason.

        `room` returns how many more jobs may be taken; `arrived` is called each time Redis has
        become reachable; `paused` blocks publishing.
        """
        super().__init__(
            [HostQueue(host_keys.queue_name, connection=redis, serializer=MsgspecSerializer)],
            name=name,
            connection=redis,
            worker_ttl=WORKER_TTL_S,
            serializer=MsgspecSerializer,
        )
        self._redis = redis
        self._keys = host_keys
        self._id_form = re.compile(re.escape(host_keys.host) + "_[A-Za-z0-9-]{1,64}")
        self._deliver = deliver
        self._refuse = refuse
        self._room = room
        self._arrived = arrived
        self._registries = Registries(redis, host_keys, paused=paused)
        self.stopping = threading.Event()
        self.connected = threading.Event()

    # ------------------------------------------------------------ what stock RQ must not do

    def subscribe(self) -> None:
        """Does nothing: a root worker takes no commands by pubsub."""

    def unsubscribe(self) -> None:
        """Does nothing: nothing was subscribed."""

    def check_for_suspension(self, burst: bool) -> None:
        """Does nothing: any client can set `rq:suspended`."""

    def run_maintenance_tasks(self) -> None:
        """Does nothing: RQ's maintenance fails jobs of live workers and imports callbacks."""

    def execute_job(self, job: Job, queue: Queue) -> NoReturn:
        """Raises: deliveries go to `worker.job`."""
        raise RuntimeError("hostd executes no rq.job.Job")

    # ------------------------------------------------------------ the loop

    def work(self, *_args: object, **_kwargs: object) -> bool:
        """Takes and delivers jobs until `stopping` is set; survives every failure of Redis."""
        failures = 0
        while not self.stopping.is_set():
            try:
                if not self.connected.is_set():
                    self._arrive()
                self._take()
                failures = 0
            except RedisError as error:
                self._wait_for_redis(error, failures)
                failures += 1
        self._leave()
        return True

    def take_back(self) -> None:
        """Delivers the intermediate list: jobs left there by a killed worker, or by a connection
        that broke between command and reply.  Jobs already in flight are dropped later."""
        ids = self._redis.lrange(self._keys.intermediate, 0, -1)
        unique: list[Any] = list(dict.fromkeys(ids))
        for start in range(0, len(unique), TAKE_AT_MOST):
            self._fetch(unique[start : start + TAKE_AT_MOST])

    def _arrive(self) -> None:
        self._delete_non_lists()
        try:
            self._sign_on()
        except (ResponseError, ValueError) as error:
            if isinstance(error, REFUSED_FOR_NOW):
                raise  # nothing has been read yet, and nothing can be taken either
            log.warning("stock tools will not show this worker: %s", error)
        self.take_back()
        self.connected.set()
        self._arrived()
        log.info("listening on %s", self._keys.queue_name)

    def _delete_non_lists(self) -> None:
        """Deletes keys that should be lists and are not: they would block the host."""
        for key in (self._keys.queue, self._keys.intermediate):
            try:
                self._redis.llen(key)
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                log.warning("%s is not a list, so hostd did not write it; it is deleted", key)
                self._redis.delete(key)

    def _sign_on(self) -> None:
        # A killed worker of this name looks alive until its key expires; the host-wide lock proves
        # that it is dead.
        self._redis.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        self.set_state(WorkerStatus.IDLE)

    def _take(self) -> None:
        if cancelled := self._registries.take_cancelled():
            self._fetch(cancelled)
        if (room := self._room()) <= 0:
            self.stopping.wait(FULL_PAUSE_S)
            return
        first = self._redis.blmove(self._keys.queue, self._keys.intermediate, BLOCK_S)
        if first is None:
            self._delete_non_lists()  # BLMOVE on an empty queue does not look at its destination
        ids: list[Any] = [] if first is None else [first]
        while ids:
            more = self._fetch(ids)
            more = min(more, room := room - len(ids))
            ids = self._move(more) if more > 0 and not self.stopping.is_set() else []

    def _move(self, count: int) -> list[bytes]:
        with self._redis.pipeline(transaction=False) as pipe:
            for _ in range(min(count, TAKE_AT_MOST)):
                pipe.lmove(self._keys.queue, self._keys.intermediate)
            return [id_ for id_ in pipe.execute() if id_ is not None]

    def _fetch(self, ids: Iterable[bytes]) -> int:
        """Reads and delivers these jobs; returns how many more wait in the queue."""
        names = []
        for name in (id_.decode("utf-8", "surrogateescape") for id_ in ids):
            if self._id_form.fullmatch(name):
                names.append(name)
            else:
                self._refuse(Delivery(name, b""), "its id is not of this host")
        with self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hmget(keys.job(name), FIELDS)
            pipe.llen(self._keys.queue)
            *hashes, more = pipe.execute(raise_on_error=False)
        found = (self._delivery(*pair) for pair in zip(names, hashes, strict=True))
        if good := [delivery for delivery in found if delivery is not None]:
            self._deliver(good)
        if isinstance(more, Exception):
            raise more
        return int(more)

    def _delivery(self, name: str, fields: Any) -> Delivery | None:
        if isinstance(fields, ResponseError) and is_wrong_type(fields):
            self._refuse(Delivery(name, b""), f"its key cannot be read: {fields}")
            return None
        if isinstance(fields, Exception):
            raise fields
        data, created_at, enqueued_at, status = fields
        if data is None:
            self._refuse(Delivery(name, b""), "there is no such job, or it has no data")
            return None
        canceled = status == b"canceled"
        return Delivery(name, data, created_at or b"", enqueued_at or b"", canceled)

    # ------------------------------------------------------------ connect and leave

    def _wait_for_redis(self, error: RedisError, failures: int) -> None:
        self.connected.clear()
        pause_s = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
        if failures == 0:
            log.warning("Redis does not answer, or refuses (%s); trying until it accepts", error)
        self.stopping.wait(pause_s)

    def _leave(self) -> None:
        if not self.connected.is_set():
            return
        try:
            self.register_death()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except RedisError as error:
            log.info("could not sign off from Redis: %s", error)

    def beat(self) -> None:
        """Shows stock tools that the host lives, and removes expired jobs from RQ's registries.

        Raises:
            RedisError: Redis is unreachable.
        """
        self.heartbeat(WORKER_TTL_S + 60)
        self._registries.forget_expired()
