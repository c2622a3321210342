"""One round trip with one Redis, for asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from enqueue.conversation.base import MAX_CONNECTIONS
from enqueue.conversation.sansio import Replies, RoundTrip
from enqueue.conversation.scripts import Command
from enqueue.link import link_down, refusal, refused_whole


class AsyncConnection(Protocol):
    """What is used of redis-py's connections."""

    async def disconnect(self, nowait: bool = False) -> None: ...
    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]: ...
    async def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    async def read_response(self, *, disable_decoding: bool, timeout: float) -> object: ...


class AsyncLink:
    """One Redis; see `Link`."""

    def __init__(self, url_or_redis: str | redis.asyncio.Redis, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._owned = isinstance(url_or_redis, str)
        self._redis = opened(url_or_redis, timeout_s)

    async def aclose(self) -> None:
        """Closes the connections unless they are somebody else's."""
        if self._owned:
            await self._redis.aclose()

    async def exchange(self, ask: RoundTrip) -> Replies:
        """The replies to one round trip.

        Raises:
            LinkDown: there are none.
        """
        pool = self._redis.connection_pool
        try:
            pooled = await cast("Any", pool).get_connection()  # untyped in redis-py
        except (redis.RedisError, OSError) as error:
            raise link_down(error, sent=False) from None
        try:
            connection: AsyncConnection = pooled
            return await self._talk(connection, ask)
        finally:
            await pool.release(pooled)

    async def _talk(self, connection: AsyncConnection, ask: RoundTrip) -> Replies:
        within_s = self.timeout_s + ask.blocks_s
        try:
            packed = connection.pack_commands(ask.commands)
            await connection.send_packed_command(packed, check_health=False)
            return [await _reply(connection, within_s) for _ in ask.commands]
        except (redis.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise link_down(error, sent=not refused_whole(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)  # replies may still be under way
            raise


def opened(url_or_redis: str | redis.asyncio.Redis, timeout_s: float) -> redis.asyncio.Redis:
    """The client of a URL; see `enqueue.link.opened`."""
    if not isinstance(url_or_redis, str):
        return url_or_redis
    return redis.asyncio.Redis.from_url(
        url_or_redis,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CONNECTIONS,
        protocol=2,
        driver_info=None,
    )


async def _reply(connection: AsyncConnection, within_s: float) -> object:
    try:
        return await connection.read_response(disable_decoding=True, timeout=within_s)
    except redis.ResponseError as error:
        return refusal(error)
