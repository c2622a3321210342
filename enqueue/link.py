"""One round trip with one Redis, and what is known if it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, NoScriptError
from redis.retry import Retry

from enqueue.conversation.base import MAX_CONNECTIONS
from enqueue.conversation.sansio import ErrorReply, LinkDown, Replies, RoundTrip
from enqueue.conversation.scripts import Command


class Connection(Protocol):
    """The part of redis-py's connections that is used here."""

    def disconnect(self) -> None: ...
    def pack_commands(self, commands: Sequence[tuple[str | bytes, ...]]) -> list[bytes]: ...
    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...
    def read_response(self, *, disable_decoding: bool, timeout: float) -> object: ...


class Link:
    """One Redis, given by its URL or as a `redis.Redis`, which the caller closes.

    Raises:
        ValueError: the URL is invalid.
    """

    def __init__(self, url_or_redis: str | redis.Redis, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._owned = isinstance(url_or_redis, str)
        self._redis = _open(url_or_redis, timeout_s)

    def close(self) -> None:
        """Closes the connections, unless the caller gave a `redis.Redis`."""
        if self._owned:
            self._redis.close()

    def round_trip(self, trip: RoundTrip) -> Replies:
        """The replies to the commands.

        Raises:
            LinkDown: not all replies arrived.
        """
        # The pool hands out open connections: it checks whether the server has closed one.
        pool = self._redis.connection_pool
        try:
            pooled = pool.get_connection()
        except (redis.RedisError, OSError) as error:
            raise link_down(error, sent=False) from None
        try:
            connection = cast("Connection", pooled)  # redis-py leaves half of it untyped
            return self._send(connection, trip)
        finally:
            pool.release(pooled)

    def _send(self, connection: Connection, trip: RoundTrip) -> Replies:
        within_s = self.timeout_s + trip.blocks_s
        try:
            packed = connection.pack_commands(texts(trip.commands))
            connection.send_packed_command(packed, check_health=False)
            return [_reply(connection, within_s) for _ in trip.commands]
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise link_down(error, sent=not nothing_executed(error)) from None
        except BaseException:
            connection.disconnect()  # the replies may still arrive on it
            raise


def _open(url_or_redis: str | redis.Redis, timeout_s: float) -> redis.Redis:
    if not isinstance(url_or_redis, str):
        return url_or_redis
    retry = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url_or_redis, retry=retry, **redis_options(timeout_s))


def redis_options(timeout_s: float) -> dict[str, Any]:
    """Options of a client with bounded waits.  Give it a `Retry` that never retries.

    The conversation repeats a lost round trip, because it must report what may have been stored.
    """
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": MAX_CONNECTIONS,
        "protocol": 2,
        # Saves two CLIENT SETINFO per connection, which an ACL may forbid.
        "driver_info": None,
    }


def texts(commands: Sequence[Command]) -> list[tuple[str | bytes, ...]]:
    """The commands without numbers.

    hiredis crashes if a signal's handler raises while it makes text of an int: CPython runs the
    handlers in `str(int)`, and `pack_command` does not check for that error (hiredis 3, pack.c).
    """
    return [tuple(str(a) if isinstance(a, int) else a for a in command) for command in commands]


def _reply(connection: Connection, within_s: float) -> object:
    try:
        return connection.read_response(disable_decoding=True, timeout=within_s)
    except redis.ResponseError as error:
        return error_reply(error)


def error_reply(error: redis.ResponseError) -> ErrorReply:
    """The error reply as a value.

    Raises:
        ResponseError: the server is not a master now; a new connection may reach the one that is.
    """
    if nothing_executed(error):
        raise error
    return ErrorReply(str(error), unknown_script=isinstance(error, NoScriptError))


def nothing_executed(error: Exception) -> bool:
    """Whether the server certainly executed nothing, because it is a replica or still loading.

    A master that becomes a replica ends blocking commands with `-UNBLOCKED` (Redis, blocked.c).
    """
    if isinstance(error, (redis.ReadOnlyError, redis.BusyLoadingError, MasterDownError)):
        return True
    return isinstance(error, redis.ResponseError) and str(error).startswith("UNBLOCKED")


def link_down(error: Exception, *, sent: bool) -> LinkDown:
    """A failure of redis-py or of the socket, for the conversation."""
    timed_out = isinstance(error, (redis.TimeoutError, TimeoutError))
    return LinkDown(f"Redis is unavailable: {error}", sent=sent, timed_out=timed_out)
