"""How many requests wait in Redis."""

from __future__ import annotations

from redis import Redis
from redis.exceptions import RedisError

from enqueue.keys import HostKeys


def queue_depth(redis: Redis, host_keys: HostKeys) -> tuple[int, int] | None:
    """How many requests are in the queue and in the failed registry; None if Redis is away."""
    try:
        with redis.pipeline(transaction=False) as pipe:
            pipe.llen(host_keys.queue)
            pipe.zcard(host_keys.failed)
            queued, failed = pipe.execute()
    except RedisError:
        return None
    return queued, failed
