"""The Lua scripts, their arguments and their replies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from enqueue import keys
from enqueue.conversation.job import RETENTION_S, SealedRequest, job_hash
from enqueue.times import format_rq

Argument = str | bytes | int
Command = tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and its SHA-1, by which Redis knows it."""

    text: bytes
    sha: str

    @classmethod
    def load(cls, *names: str) -> Script:
        """The script whose text is these files of `lua/`, one after the other."""
        directory = resources.files("enqueue") / "lua"
        text = b"\n".join((directory / name).read_bytes() for name in names)
        # Redis identifies scripts by SHA-1; no security depends on it.
        return cls(text, hashlib.sha1(text, usedforsecurity=False).hexdigest())

    def call(self, names: Sequence[str], arguments: Sequence[Argument]) -> Command:
        """The EVALSHA command."""
        return ("EVALSHA", self.sha, len(names), *names, *arguments)

    def upload(self) -> Command:
        """The command after which `call` works."""
        return ("SCRIPT", "LOAD", self.text)


ENQUEUE: Final = Script.load("register.lua", "enqueue.lua")
RETRY: Final = Script.load("register.lua", "retry.lua")
CANCEL: Final = Script.load("cancel.lua")


@dataclass(frozen=True, slots=True)
class Stored:
    """A job as Redis holds it.

    `status` is RQ's, or `new` if this call stored it; `after` is the id of its last result,
    `0-0` without one; `entry` has the fields of that result if the job has ended.
    """

    status: str
    after: bytes
    data: bytes = b""
    entry: dict[bytes, bytes] | None = None


def enqueue_command(requests: Sequence[SealedRequest], *, limit: int, now_ms: int) -> Command:
    """One call of enqueue.lua, for requests to one host."""
    host = keys.HostKeys(requests[0].host)
    hashes = [job_hash(sealed, now_ms=now_ms) for sealed in requests]
    arguments: list[Argument] = [limit, host.intermediate, keys.QUEUES, 2 * len(hashes[0])]
    for sealed, fields in zip(requests, hashes, strict=True):
        ttl_s = max(0, sealed.body.not_after_ms - now_ms) // 1000 + RETENTION_S
        arguments += [sealed.job_id, keys.results(sealed.job_id), ttl_s]
        for name, value in fields.items():
            arguments += [name, value]
    names = [host.queue, *(keys.job(sealed.job_id) for sealed in requests)]
    return ENQUEUE.call(names, arguments)


def retry_command(sealed: SealedRequest, *, token: str, limit: int, now_ms: int) -> Command:
    """One call of retry.lua."""
    host = keys.HostKeys(sealed.host)
    job_id = sealed.job_id
    return RETRY.call(
        [host.queue, keys.job(job_id)],
        [
            *(limit, host.intermediate, keys.QUEUES, job_id, keys.results(job_id)),
            *(RETENTION_S, token, format_rq(now_ms), host.failed),
        ],
    )


def cancel_command(host_name: str, request_id: str, *, now_ms: int) -> Command:
    """One call of cancel.lua."""
    host, job_id = keys.HostKeys(host_name), keys.job_id(host_name, request_id)
    return CANCEL.call([host.queue, keys.job(job_id), host.canceled], [job_id, now_ms // 1000])


def parse_stored(item: Sequence[object]) -> Stored:
    """One item of enqueue.lua's reply."""
    status, after, *rest = item
    data = _bytes(rest[0]) if rest else b""
    entry = fields_of(rest[1]) if len(rest) > 1 else None
    return Stored(_bytes(status).decode(), _bytes(after), data, entry)


def fields_of(flat: object) -> dict[bytes, bytes] | None:
    """A stream entry's fields, from the flat list that Redis sends; None if it is not one."""
    if not isinstance(flat, (list, tuple)):
        return None
    return {_bytes(name): _bytes(value) for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode()
