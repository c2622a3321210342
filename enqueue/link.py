"""One round trip with one Redis, and what is known when it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, NoScriptError
from redis.retry import Retry

from enqueue.conversation.base import MAX_CONNECTIONS
from enqueue.conversation.sansio import LinkDown, Refusal, Replies, RoundTrip
from enqueue.conversation.scripts import Command


class Connection(Protocol):
    """What is used of redis-py's connections."""

    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Sequence[Command]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def read_response(self, *, disable_decoding: bool, timeout: float) -> object: ...


class Link:
    """One Redis.  A `redis.Redis` that was given stays its giver's to close.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(self, url_or_redis: str | redis.Redis, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._owned = isinstance(url_or_redis, str)
        self._redis = opened(url_or_redis, timeout_s)

    def close(self) -> None:
        """Closes the connections unless they are somebody else's."""
        if self._owned:
            self._redis.close()

    def exchange(self, ask: RoundTrip) -> Replies:
        """The replies to one round trip.

        Raises:
            LinkDown: there are none.
        """
        # The pool hands out open connections: it looks whether the server has closed one.
        pool = self._redis.connection_pool
        try:
            pooled = pool.get_connection()
        except (redis.RedisError, OSError) as error:
            raise link_down(error, sent=False) from None
        try:
            connection = cast("Connection", pooled)  # redis-py leaves half of it untyped
            return self._talk(connection, ask)
        finally:
            pool.release(pooled)

    def _talk(self, connection: Connection, ask: RoundTrip) -> Replies:
        within_s = self.timeout_s + ask.blocks_s
        try:
            packed = connection.pack_commands(ask.commands)
            connection.send_packed_command(packed, check_health=False)
            return [_reply(connection, within_s) for _ in ask.commands]
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise link_down(error, sent=not refused_whole(error)) from None
        except BaseException:
            connection.disconnect()  # replies may still be under way
            raise


def opened(url_or_redis: str | redis.Redis, timeout_s: float) -> redis.Redis:
    """The client of a URL, with bounded waits and no retries of its own."""
    if not isinstance(url_or_redis, str):
        return url_or_redis
    return redis.Redis.from_url(
        url_or_redis,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # A lost round trip is repeated by the dialogue, which says what may have been stored.
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CONNECTIONS,
        protocol=2,
        # Spares two CLIENT SETINFO per connection, which an ACL may forbid.
        driver_info=None,
    )


def _reply(connection: Connection, within_s: float) -> object:
    try:
        return connection.read_response(disable_decoding=True, timeout=within_s)
    except redis.ResponseError as error:
        return refusal(error)


def refusal(error: redis.ResponseError) -> Refusal:
    """The error reply as a value.

    Raises:
        ResponseError: the server is no master now; a new connection may find the one that is.
    """
    if refused_whole(error):
        raise error
    return Refusal(str(error), unknown_script=isinstance(error, NoScriptError))


def refused_whole(error: Exception) -> bool:
    """Whether the server surely did nothing, for it is a replica, or still loading.

    A master that becomes a replica ends blocking commands with `-UNBLOCKED` (Redis, blocked.c).
    """
    if isinstance(error, (redis.ReadOnlyError, redis.BusyLoadingError, MasterDownError)):
        return True
    return isinstance(error, redis.ResponseError) and str(error).startswith("UNBLOCKED")


def link_down(error: Exception, *, sent: bool) -> LinkDown:
    """The failure in the terms of a dialogue."""
    slow = isinstance(error, (redis.TimeoutError, TimeoutError))
    return LinkDown(f"Redis is away: {error}", sent=sent, slow=slow)
