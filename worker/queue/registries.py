"""RQ's registries of ended jobs: what others write there, and what nobody else would remove."""

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
        """`paused` is held while nothing may be told: a telling registers its job anew."""
        self._redis = redis
        self._keys = host_keys
        self._paused = paused
        self._wall = wall
        self._next_look = 0.0
        self._id_form = re.compile(re.escape(host_keys.host).encode() + b"_[A-Za-z0-9-]{1,64}")

    def cancelled(self) -> list[bytes]:
        """Jobs that somebody has cancelled since the last look: taken, to be delivered.

        Who cancels registers the present time, as RQ does (`BaseRegistry.add`); hostd the time at
        which the job, which it has ended, may be forgotten.  Looks once a second.

        Raises:
            RedisError: Redis is away.
        """
        if time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + LOOK_S
        if not self._found():
            return []
        # Looked at again: one that was told of meanwhile is registered for good.
        with self._paused():
            found = self._found()
            return self._taken(found) if found else []

    def _found(self) -> list[bytes]:
        registry, now_s = self._keys.canceled, int(self._wall())
        try:
            found = self._redis.zrangebyscore(registry, "-inf", now_s, start=0, num=AT_ONCE)
        except ResponseError as error:
            self._cannot_look(error)
            return []
        return [id_ for id_ in found if isinstance(id_, bytes)]

    def _cannot_look(self, error: ResponseError) -> None:
        """The host works on: without this look it ends cancelled requests later, or not."""
        self._next_look += BLIND_S
        log.warning("cannot see what is cancelled: %s: %s", self._keys.canceled, error)
        if is_wrong_type(error):
            self._redis.delete(self._keys.canceled)

    def _taken(self, ids: list[bytes]) -> list[bytes]:
        """Those of the jobs that exist; they stand in the intermediate list from here on."""
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
        """The finished and failed registries hold no job whose time is up.

        Raises:
            RedisError: Redis is away.
        """
        for registry in (self._keys.finished, self._keys.failed):
            self._redis.zremrangebyscore(registry, "-inf", int(self._wall()))
