"""Reads a host's queue and registries, and follows its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from enqueue import keys
from enqueue.conversation.job import read_result, unseal
from enqueue.conversation.sansio import Conversation, as_list, as_text, entries, read
from enqueue.conversation.scripts import Command, fields_of
from enqueue.keys import JobState
from enqueue.requests import op_of
from enqueue.results import Failed
from enqueue.times import format_rq

EVENTS_AT_ONCE: Final = 1000


class JobLine(msgspec.Struct, frozen=True, kw_only=True):
    """One job of a host.

    `status` is RQ's.  `op` and `issuer` are empty if the job is not a request of hostd.  Times are
    UTC, as in `2026-01-31T04:00:00.000000Z`; `ended_at` is when its last result was published,
    empty if none was.  `outcome` is the code of its failure, as in `conflict/cancelled`, or empty.
    """

    request_id: str
    host: str
    status: str
    op: str
    description: str
    enqueued_at: str
    issuer: str
    ended_at: str = ""
    outcome: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a host's event stream.

    `id` is its id in the stream: pass it as `after` to read the events that follow.  `event` is the
    JSON object (docs/protocol.md, "Events"); any other value is under its key `value`.
    """

    id: str
    event: dict[str, Any]


def jobs(host: str, states: Sequence[JobState], *, limit: int) -> Conversation[list[JobLine]]:
    """Up to `limit` jobs of each state asked for, the oldest first.

    Raises:
        QueueUnavailable: Redis did not answer in time.
    """
    sources = yield from read(*(c for state in states for c in _sources(host, state, limit)))
    ids = list(dict.fromkeys(as_text(id_) for source in sources for id_ in as_list(source)))
    if not ids:
        return []
    found = yield from read(*(command for id_ in ids for command in _details(id_)))
    lines = (_line(host, id_, found[2 * n], found[2 * n + 1]) for n, id_ in enumerate(ids))
    return [line for line in lines if line is not None]


def events(host: str, *, after: str, wait_s: float) -> Conversation[list[Event]]:
    """The events after the id `after`, up to 1000; waits up to `wait_s` for the first.

    If `after` is `now`, the newest event is returned instead, if there is one.

    Raises:
        QueueUnavailable: Redis did not answer in time, or `after` is not an id of a stream.
    """
    stream = keys.HostKeys(host).events
    if after == "now":
        (last,) = yield from read(("XREVRANGE", stream, "+", "-", "COUNT", 1))
        return [_event(entry) for entry in as_list(last)]
    block = ("BLOCK", int(wait_s * 1000)) if wait_s >= 0.001 else ()
    command = ("XREAD", "COUNT", EVENTS_AT_ONCE, *block, "STREAMS", stream, after)
    (reply,) = yield from read(command, blocks_s=wait_s)
    return [_event(entry) for entry in entries(reply)]


def _sources(host: str, state: JobState, limit: int) -> tuple[Command, ...]:
    names = keys.HostKeys(host)
    if state == "queued":
        # A job that hostd has taken stays in the intermediate list until its result is published.
        return tuple(("LRANGE", key, 0, limit - 1) for key in (names.intermediate, names.queue))
    registry: str = getattr(names, state)
    return (("ZRANGE", registry, 0, limit - 1),)


def _details(job_id: str) -> tuple[Command, Command]:
    fields = ("status", "description", "enqueued_at", "data")
    last = ("XREVRANGE", keys.results(job_id), "+", "-", "COUNT", 1)
    return ("HMGET", keys.job(job_id), *fields), last


def _line(host: str, job_id: str, hash_: object, last: object) -> JobLine | None:
    status, description, enqueued_at, data = as_list(hash_)
    if status is None:
        return None  # it expired between the two round trips
    sealed = unseal(data) if data else None
    outcome = ""
    if sealed and last and status in (b"failed", b"canceled"):
        result = read_result(sealed, fields_of(as_list(last)[0][1]) or {})
        outcome = result.code if isinstance(result, Failed) else ""
    return JobLine(
        request_id=job_id.removeprefix(keys.job_id(host, "")),
        host=host,
        status=as_text(status),
        op=op_of(sealed.body.request) if sealed else "",
        description=as_text(description or b""),
        enqueued_at=as_text(enqueued_at or b""),
        issuer=sealed.body.issuer if sealed else "",
        ended_at=_published_at(last),
        outcome=outcome,
    )


def _published_at(last: object) -> str:
    """When the last result was published: stream ids begin with Unix milliseconds (XADD)."""
    found = as_list(last)
    return format_rq(int(as_text(found[0][0]).partition("-")[0])) if found else ""


def _event(entry: Any) -> Event:
    id_, flat = entry
    fields = fields_of(flat) or {}
    raw = fields.get(b"event") or next(iter(fields.values()), b"null")
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        value = as_text(raw)
    return Event(id=as_text(id_), event=value if isinstance(value, dict) else {"value": value})
