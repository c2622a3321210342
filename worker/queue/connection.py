"""Connects to Redis, and checks that it keeps requests before hostd relies on it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from redis import Redis, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from enqueue.keys import QUEUES, HostKeys, job, results
from worker.config import RedisConfig
from worker.errors import ConfigError, StartupError, Unreachable

log = logging.getLogger("hostd")

OWNER_TTL_S = 30
RedisAway: Final = RedisError  # what any call raises while Redis does not serve it
_ANY: Final = HostKeys("any")
# What hostd's append-only file contains: one command for each kind of key.
_REPLAYED: Final = (
    ("HSET", job("any_1"), "status", "queued"),
    ("PEXPIREAT", job("any_1"), "1"),
    ("DEL", job("any_1")),
    ("SADD", QUEUES, "x"),
    ("RPUSH", _ANY.queue, "x"),
    ("LREM", _ANY.intermediate, "1", "x"),
    ("ZADD", _ANY.failed, "1", "x"),
    ("XADD", results("any_1"), "*", "f", "x"),
    ("XADD", _ANY.events, "*", "f", "x"),
    ("SET", _ANY.owner, "x"),
)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Which machine serves a host name: a guard against two, not a lease."""

    machine_id: str
    runtime: str
    pid: int


def connect(config: RedisConfig, *, extra_timeout_s: float = 0.0) -> Redis:
    """A client; nothing is sent yet.  `extra_timeout_s` is for commands that block that long.

    Raises:
        ConfigError: the URL, or a file that the configuration names.
    """
    options = _options(config, extra_timeout_s)
    try:
        if config.sentinels:
            addresses = [_address(text) for text in config.sentinels]
            return _master(addresses, config, options)
        client: Redis = Redis.from_url(config.url, **options)
    except ValueError as error:
        raise ConfigError(f"redis.url = {address(config)}: {error}") from error
    return client


def _master(addresses: list[tuple[str, int]], config: RedisConfig, options: Any) -> Redis:
    """A client that asks the sentinels who the master is, at every connection."""
    sentinel: Any = Sentinel  # redis-py leaves it untyped
    return cast(
        "Redis",
        sentinel(addresses, socket_timeout=config.timeout_s).master_for(
            config.sentinel_service, **options
        ),
    )


def _options(config: RedisConfig, extra_timeout_s: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "socket_timeout": config.timeout_s + extra_timeout_s,
        "socket_connect_timeout": config.timeout_s,
        # The worker's loop does its own waiting; redis-py must not repeat a command whose reply
        # was lost.
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
    }
    if config.password_file:
        try:
            options["password"] = Path(config.password_file).read_text().strip()
        except OSError as error:
            raise ConfigError(f"redis.password_file = {config.password_file!r}: {error}") from error
    for key, name in (("ca", "ssl_ca_certs"), ("cert", "ssl_certfile"), ("key", "ssl_keyfile")):
        if getattr(config, key):
            options[name] = getattr(config, key)
    return options


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    try:
        return host, int(port)
    except ValueError:
        raise ConfigError(f"redis.sentinels: {text!r} is not host:port") from None


def address(config: RedisConfig) -> str:
    """Where Redis is, without a password."""
    return ", ".join(config.sentinels) or re.sub(r"//[^/]*@", "//", config.url)


def check(redis: Redis, config: RedisConfig) -> None:
    """Checks that Redis answers, and that it loses no requests.

    Raises:
        Unreachable: it does not answer.
        StartupError: it refuses hostd, has no AOF, or may evict keys.
    """
    where = address(config)
    try:
        persistence = redis.info("persistence")
        memory = redis.info("memory")
    except (AuthenticationError, NoPermissionError) as error:
        raise StartupError(f"Redis at {where} refuses hostd: {error}; see `hostctl acl`") from error
    except RedisError as error:
        raise Unreachable(
            f"Redis at {where} does not answer: {error}; start it, or correct [redis] url"
        ) from error
    if not persistence.get("aof_enabled") and not config.allow_no_aof:
        raise StartupError(
            f"Redis at {where} has no AOF, so a restart would lose requests; set `appendonly yes`"
        )
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StartupError(
            f"Redis at {where} may evict requests (maxmemory-policy {policy}); set it to noeviction"
        )
    _check_replay(redis, where)


def _check_replay(redis: Redis, where: str) -> None:
    """Checks that a restarted Redis would read back all of its append-only file.

    Redis 7 replays it as the user `default` and refuses there, at each EXEC, what that user may not
    do: the transaction is dropped, with a line in Redis' log and no error.
    """
    for command in _REPLAYED:
        try:
            answer = redis.execute_command("ACL", "DRYRUN", "default", *command)  # type: ignore[no-untyped-call]  # redis-py's
        except NoPermissionError as error:
            raise StartupError(
                f"Redis at {where} does not let hostd ask whether a restart would lose requests: "
                f"give hostd's user +acl|dryrun; see `hostctl acl`"
            ) from error
        except ResponseError as error:  # older than 7.0
            log.warning(
                "Redis at %s cannot tell whether a restart loses requests: %s", where, error
            )
            return
        except RedisError as error:
            raise Unreachable(f"Redis at {where} does not answer: {error}") from error
        if answer not in (b"OK", "OK", True):
            raise StartupError(
                f"Redis at {where} would lose requests at its next restart: it replays its "
                f"append-only file as the user `default`, who may not {command[0]}; make that user "
                f"`off resetpass ~* &* +@all`, see `hostctl acl`"
            )


def claim(redis: Redis, host_keys: HostKeys, owner: Owner) -> None:
    """Claims the host name for this machine; raises like `check_owner`."""
    check_owner(redis, host_keys, owner)
    refresh(redis, host_keys, owner)


def check_owner(redis: Redis, host_keys: HostKeys, owner: Owner) -> None:
    """Checks that no other machine serves the host name.

    Raises:
        StartupError: another machine, or another runtime directory, served it in the last 30 s.
        Unreachable: Redis does not answer.
    """
    try:
        raw = redis.get(host_keys.owner)
    except ResponseError as error:
        raise StartupError(f"{host_keys.owner} in Redis: {error}; see `hostctl acl`") from error
    except RedisError as error:
        raise Unreachable(f"Redis does not answer: {error}") from error
    if isinstance(raw, bytes):
        try:
            known = msgspec.json.decode(raw, type=Owner)
        except msgspec.DecodeError:
            known = None
        if known and (known.machine_id, known.runtime) != (owner.machine_id, owner.runtime):
            raise StartupError(
                f"host name {host_keys.host} is served by machine {known.machine_id} (runtime "
                f"{known.runtime}, pid {known.pid}); stop it and wait {OWNER_TTL_S} s, or rename"
            )


def refresh(redis: Redis, host_keys: HostKeys, owner: Owner) -> None:
    """Refreshes the key that says which machine serves this host name."""
    redis.set(host_keys.owner, msgspec.json.encode(owner), ex=OWNER_TTL_S)
