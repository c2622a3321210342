"""One round trip with one Redis, for asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from enqueue.conversation.sansio import Replies, RoundTrip
from enqueue.link import error_reply, link_down, nothing_executed, redis_options, texts


class AsyncConnection(Protocol):
    """The part of redis-py's connections that is used here."""

    async def disconnect(self, nowait: bool = False) -> None: ...
    def pack_commands(self, commands: Sequence[tuple[str | bytes, ...]]) -> list[bytes]: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    async def read_response(self, *, disable_decoding: bool, timeout: float) -> object: ...


class AsyncLink:
    """One Redis; see `Link`."""

    def __init__(self, url_or_redis: str | redis.asyncio.Redis, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._owned = isinstance(url_or_redis, str)
        self._redis = _open(url_or_redis, timeout_s)

    async def aclose(self) -> None:
        """Closes the connections, unless the caller gave a `redis.asyncio.Redis`."""
        if self._owned:
            await self._redis.aclose()

    async def round_trip(self, trip: RoundTrip) -> Replies:
        """The replies to the commands.

        Raises:
            LinkDown: not all replies arrived.
        """
        pool = self._redis.connection_pool
        try:
            pooled = await cast("Any", pool).get_connection()  # untyped in redis-py
        except (redis.RedisError, OSError) as error:
            raise link_down(error, sent=False) from None
        try:
            connection: AsyncConnection = pooled
            return await self._send(connection, trip)
        finally:
            await pool.release(pooled)

    async def _send(self, connection: AsyncConnection, trip: RoundTrip) -> Replies:
        within_s = self.timeout_s + trip.blocks_s
        try:
            packed = connection.pack_commands(texts(trip.commands))
            await connection.send_packed_command(packed, check_health=False)
            return [await _reply(connection, within_s) for _ in trip.commands]
        except (redis.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise link_down(error, sent=not nothing_executed(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)  # the replies may still arrive on it
            raise


def _open(url_or_redis: str | redis.asyncio.Redis, timeout_s: float) -> redis.asyncio.Redis:
    if not isinstance(url_or_redis, str):
        return url_or_redis
    retry = Retry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_url(url_or_redis, retry=retry, **redis_options(timeout_s))


async def _reply(connection: AsyncConnection, within_s: float) -> object:
    try:
        return await connection.read_response(disable_decoding=True, timeout=within_s)
    except redis.ResponseError as error:
        return error_reply(error)
