"""Redis ACL users that wall hosts off from each other: what each part needs, and no more.

Found by running every operation with each right taken away in turn; a test does so again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from enqueue import keys
from enqueue.requests import Host

DEFAULT_CLIENT: Final = "agentd"
DASHBOARD: Final = "dashboard"
HEALTH: Final = "health"  # may PING, with any password: for health checks
REPLICA: Final = "replica"  # a replica's `masteruser`
SENTINEL: Final = "sentinel"  # a Sentinel's `auth-user`
# Redis replays its append-only file with this user's rights and checks them at each EXEC: a
# default user with fewer loses acknowledged requests at every restart.  Nobody can log in as it.
DEFAULT_USER: Final = "user default off sanitize-payload resetpass ~* &* +@all"

CLIENT_COMMANDS: Final = (
    *("evalsha", "exec", "exists", "expire", "hget", "hmget", "hset", "llen", "lrange", "multi"),
    *("lrem", "rpush", "sadd", "script|load", "xread", "xrevrange", "zadd", "zrange", "zrem"),
    "zscore",
)
WORKER_COMMANDS: Final = (
    *("acl|dryrun", "blmove", "client|info", "client|setname", "del", "exec", "exists"),
    *("expire", "get", "hget", "hmget", "hset", "info", "llen", "lmove", "lrange", "lrem"),
    *("ltrim", "multi", "persist", "rpush", "sadd", "set", "srem", "xadd", "zadd", "zcard"),
    *("zrangebyscore", "zrem", "zremrangebyscore"),
)
# https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl, "ACL rules for
# Sentinel and Replicas".
REPLICA_RIGHTS: Final = ("-@all", "+psync", "+replconf", "+ping")
SENTINEL_RIGHTS: Final = (
    *("&*", "-@all", "+multi", "+slaveof", "+ping", "+exec", "+subscribe", "+config|rewrite"),
    *("+role", "+publish", "+info", "+client|setname", "+client|kill", "+script|kill"),
)
DASHBOARD_COMMANDS: Final = (
    "info",
    *("exec", "exists", "hget", "hgetall", "hset", "llen", "lrange", "multi"),
    *("ping", "rpush", "smembers", "xrevrange", "zcard", "zrange"),
    "zrem",
)


def acl_lines(
    *hosts: str, client: str = DEFAULT_CLIENT, hashes: Mapping[str, str] | None = None
) -> str:
    """The lines of an ACL file for these hosts: one client for all, a worker for each.

    `hashes` holds SHA-256 digests of passwords by user (`password_hash`); a user without one is
    off.  Without a login nothing is allowed; `health` may PING.

    Raises:
        ValueError: a host's name is none.
    """
    checked = [_host(name) for name in hosts]
    known = hashes or {}
    lines = [DEFAULT_USER, f"user {HEALTH} on nopass sanitize-payload resetchannels -@all +ping"]
    lines.append(_user(client, known, client_rights(checked)))
    lines += [_user(worker_user(host), known, worker_rights(host)) for host in checked]
    lines.append(_user(DASHBOARD, known, dashboard_rights()))
    lines.append(_user(REPLICA, known, REPLICA_RIGHTS))
    lines.append(_user(SENTINEL, known, SENTINEL_RIGHTS))
    return "".join(f"{line}\n" for line in lines)


def worker_user(host: str) -> str:
    """The name under which the worker of a host logs in."""
    return f"hostd-{host}"


def password_hash(password: str) -> str:
    """How an ACL file names a password."""
    return hashlib.sha256(password.encode()).hexdigest()


def client_rights(hosts: Sequence[str]) -> tuple[str, ...]:
    """Enqueue, wait, retry, list and follow on these hosts."""
    patterns = [f"%W~{keys.QUEUES}"]
    for host in hosts:
        names = keys.HostKeys(host)
        any_id = keys.job_id(host, "*")
        patterns += [
            f"~{keys.job(any_id)}",
            f"~{names.queue}",
            f"~{names.failed}",
            f"~{names.canceled}",
            f"%R~{names.intermediate}",
            f"%R~{names.started}",
            f"%R~{names.deferred}",
            f"%R~{names.finished}",
            f"%R~{keys.results(any_id)}",
            f"%R~{names.events}",
        ]
    return (*patterns, *_commands(CLIENT_COMMANDS))


def worker_rights(host: str) -> tuple[str, ...]:
    """Take, show, tell and sign on, of one host."""
    names = keys.HostKeys(host)
    any_id = keys.job_id(host, "*")
    patterns = (
        f"~{keys.job(any_id)}",
        f"~{names.queue}",
        f"~{names.intermediate}",
        f"%W~rq:worker:{any_id}",
        f"~{names.owner}",
        f"%W~{names.failed}",
        f"%W~{names.quarantine}",
        f"%W~{names.started}",
        f"%W~{names.deferred}",
        f"%W~{names.finished}",
        f"~{names.canceled}",
        f"%W~{keys.results(any_id)}",
        f"%W~{names.events}",
        f"%W~{keys.WORKERS}",
        f"%W~{keys.WORKERS}:{names.queue_name}",
    )
    return (*patterns, *_commands(WORKER_COMMANDS))


def dashboard_rights() -> tuple[str, ...]:
    """Look at every host's queue, and requeue what failed there."""
    names = keys.HostKeys("*")
    registries = (names.started, names.deferred, names.finished, names.canceled)
    patterns = (
        f"~{keys.job('*')}",
        f"~{names.queue}",
        f"~{names.failed}",
        f"%R~{keys.QUEUES}",
        f"%R~{keys.WORKERS}",
        *(f"%R~{registry}" for registry in registries),
        f"%R~rq:scheduled:{names.queue_name}",
        f"%R~{keys.results('*')}",
        "%R~rq:worker:*",
        "%R~rq:execution:*",
    )
    return (*patterns, *_commands(DASHBOARD_COMMANDS))


def _commands(names: Sequence[str]) -> tuple[str, ...]:
    return ("-@all", *(f"+{name}" for name in names))


def _user(name: str, hashes: Mapping[str, str], rights: Sequence[str]) -> str:
    password = f"on #{hashes[name]}" if name in hashes else "off"
    return " ".join(["user", name, password, "sanitize-payload", "resetchannels", *rights])


def _host(name: str) -> str:
    try:
        return msgspec.convert(name, Host)
    except msgspec.ValidationError:
        raise ValueError(f"{name!r} is no host name: give a-z, 0-9 and '-'") from None
