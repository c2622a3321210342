"""RQ's registries of ended jobs: takes what callers cancel, removes what has expired."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from redis import Redis
from redis.exceptions import ResponseError

from enqueue import keys
from worker.queue.transaction import execute_repairing, is_wrong_type

log = logging.getLogger("hostd")

LOOK_S: Final = 1.0
BLIND_S: Final = 60.0
AT_ONCE: Final = 256


class Registries:
    """One host's registries; for the consumer's thread alone."""

    def __init__(
        self,
        redis: Redis,
        host_keys: keys.HostKeys,
        *,
        paused: Callable[[], AbstractContextManager[object]] = nullcontext,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`paused` blocks publishing: publishing a result adds its job to its registry again."""
        self._redis = redis
        self._keys = host_keys
        self._paused = paused
        self._wall = wall
        self._next_look = 0.0
        self._id_form = re.compile(re.escape(host_keys.host).encode() + b"_[A-Za-z0-9-]{1,64}")

    def take_cancelled(self) -> list[bytes]:
        """Jobs cancelled since the last look, now in the intermediate list; looks once a second.

        A caller that cancels registers the job with the present time, as RQ does
        (`BaseRegistry.add`); hostd, which has ended a job, with the time of its expiry.

        Raises:
            RedisError: Redis is unreachable.
        """
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK_S
        if not self._found():
            return []
        # Reads again: a job whose result was published meanwhile has its expiry as score now.
        with self._paused():
            found = self._found()
            return self._take(found) if found else []

    def _found(self) -> list[bytes]:
        registry, now_s = self._keys.canceled, int(self._wall())
        try:
            found = self._redis.zrangebyscore(registry, "-inf", now_s, start=0, num=AT_ONCE)
        except ResponseError as error:
            self._skip_looks(error)
            return []
        return [id_ for id_ in found if isinstance(id_, bytes)]

    def _skip_looks(self, error: ResponseError) -> None:
        """Logs it and looks again in a minute: until then cancelled requests may end late."""
        self._next_look += BLIND_S
        log.warning("cannot read what is cancelled: %s: %s", self._keys.canceled, error)
        if is_wrong_type(error):
            self._redis.delete(self._keys.canceled)

    def _take(self, ids: list[bytes]) -> list[bytes]:
        """Moves those of the jobs that exist to the intermediate list, and returns them."""
        good = [id_ for id_ in ids if self._id_form.fullmatch(id_)]
        with self._redis.pipeline(transaction=False) as pipe:
            for id_ in good:
                pipe.exists(keys.job(id_.decode()))
            there = pipe.execute()
        living = [id_ for id_, exists in zip(good, there, strict=True) if exists]
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(self._keys.canceled, *ids)
            if living:
                pipe.rpush(self._keys.intermediate, *living)
            execute_repairing(pipe)
        return living

    def forget_expired(self) -> None:
        """Removes expired jobs from the finished and failed registries.

        Raises:
            RedisError: Redis is unreachable.
        """
        for registry in (self._keys.finished, self._keys.failed):
            self._redis.zremrangebyscore(registry, "-inf", int(self._wall()))
