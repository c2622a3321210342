"""The only subclassing of RQ: one consumer that takes all there is and never trusts what it takes.

Of RQ's SimpleWorker stay its registration, heartbeat and state, so that `rq info` and rq-dashboard
show the host.  Everything by which a writer to Redis could make a stock worker do something is
gone (each proven against rq 3.0 in tests/redis/test_hardening.py): a job's hash is never restored
into an `rq.job.Job`, only its `data` and two times are read, and they decode by allow-list; there
is no pubsub, no suspension, no scheduler, no registry maintenance, no callback, no import by name.
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
# Capped well below the 2 s after which hostd goes on once Redis is back.
RECONNECT_S: Final = (0.05, 0.1, 0.2, 0.4)
REFUSED_FOR_NOW: Final = (ReadOnlyError, OutOfMemoryError)
FIELDS: Final = ("data", "created_at", "enqueued_at", "status")


class HostJob(Job):
    """A job that is never executed by RQ: whatever tries to is a bug."""

    @property
    def func(self) -> NoReturn:
        """Nothing is imported by a name found in Redis."""
        raise RuntimeError("hostd executes no function by name")


class HostQueue(Queue):
    """One host's queue."""

    job_class = HostJob


class HostWorker(SimpleWorker):
    """Takes jobs and hands them on; see `worker.job` for what happens to them."""

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
        """`deliver` takes a batch in order; `refuse` an entry that cannot be read, and why.

        `room` says how many more may be taken; `arrived` hears whenever Redis is there again;
        nothing is told while `paused` is held.
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
        """No commands by pubsub to a root worker."""

    def unsubscribe(self) -> None:
        """Nothing was subscribed."""

    def check_for_suspension(self, burst: bool) -> None:
        """`rq:suspended` is a switch that anybody could set."""

    def run_maintenance_tasks(self) -> None:
        """Stock maintenance fails jobs of live workers and imports callbacks."""

    def execute_job(self, job: Job, queue: Queue) -> NoReturn:
        """Never reached: deliveries go to `worker.job`."""
        raise RuntimeError("hostd executes no rq.job.Job")

    # ------------------------------------------------------------ the loop

    def work(self, *_args: object, **_kwargs: object) -> bool:
        """Takes and delivers until `stopping` is set; outlives every failure of Redis."""
        failures = 0
        while not self.stopping.is_set():
            try:
                if not self.connected.is_set():
                    self._arrive()
                self._take()
                failures = 0
            except RedisError as error:
                self._lost(error, failures)
                failures += 1
        self._leave()
        return True

    def take_back(self) -> None:
        """Delivers everything of the intermediate list: what a killed worker, or a connection that
        broke between command and reply, left there.  What is in flight already is dropped later."""
        ids = self._redis.lrange(self._keys.intermediate, 0, -1)
        unique: list[Any] = list(dict.fromkeys(ids))
        for start in range(0, len(unique), TAKE_AT_MOST):
            self._fetch(unique[start : start + TAKE_AT_MOST])

    def _arrive(self) -> None:
        self._free_the_lists()
        try:
            self._sign_on()
        except (ResponseError, ValueError) as error:
            if isinstance(error, REFUSED_FOR_NOW):
                raise  # before anything is read: nothing can be taken either
            log.warning("stock tools will not show this worker: %s", error)
        self.take_back()
        self.connected.set()
        self._arrived()
        log.info("listening on %s", self._keys.queue_name)

    def _free_the_lists(self) -> None:
        """Whatever stands in a list's place and is no list would block the host."""
        for key in (self._keys.queue, self._keys.intermediate):
            try:
                self._redis.llen(key)
            except ResponseError as error:
                if not is_wrong_type(error):
                    raise
                log.warning("%s is no list: somebody has put it there; it is deleted", key)
                self._redis.delete(key)

    def _sign_on(self) -> None:
        # A worker of this name that was killed looks alive until its key expires; the host-wide
        # lock proves that it is not.
        self._redis.delete(self.key)
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        self.set_state(WorkerStatus.IDLE)

    def _take(self) -> None:
        if cancelled := self._registries.cancelled():
            self._fetch(cancelled)
        if (room := self._room()) <= 0:
            self.stopping.wait(FULL_PAUSE_S)
            return
        first = self._redis.blmove(self._keys.queue, self._keys.intermediate, BLOCK_S)
        if first is None:
            self._free_the_lists()  # BLMOVE on an empty queue does not look at its destination
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
        """Reads these jobs and delivers them; returns how many more wait in the queue."""
        names = []
        for name in (id_.decode("utf-8", "surrogateescape") for id_ in ids):
            if self._id_form.fullmatch(name):
                names.append(name)
            else:
                self._refuse(Delivery(name, b""), "its id is none of this host")
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

    # ------------------------------------------------------------ coming and going

    def _lost(self, error: RedisError, failures: int) -> None:
        self.connected.clear()
        pause_s = RECONNECT_S[min(failures, len(RECONNECT_S) - 1)]
        if failures == 0:
            log.warning("Redis is away, or takes nothing (%s); trying until it does", error)
        self.stopping.wait(pause_s)

    def _leave(self) -> None:
        if not self.connected.is_set():
            return
        try:
            self.register_death()  # type: ignore[no-untyped-call]  # RQ leaves it untyped
        except RedisError as error:
            log.info("could not sign off from Redis: %s", error)

    def beat(self) -> None:
        """Tells stock tools that the host lives, and cleans up for them.

        Raises:
            RedisError: Redis is away.
        """
        self.heartbeat(WORKER_TTL_S + 60)
        self._registries.forget_expired()
