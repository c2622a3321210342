"""Events: what changed, as agentd reads it from the stream and a person in the log."""

from __future__ import annotations

import logging

import msgspec

from enqueue.results import Done, Failed, Pong, Result

log = logging.getLogger("hostd")


class InstanceChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="instance"):
    """An instance's status changed; `reason` is a request's operation, or what hostd found."""

    at_ms: int
    tenant_id: str
    pool_id: str
    instance_id: str
    before: str | None
    after: str
    reason: str
    request_id: str | None = None


class RequestEnded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="request"):
    """A request ended."""

    at_ms: int
    request_id: str
    op: str
    outcome: str
    changed: bool
    state: str | None = None
    code: str | None = None
    instance_id: str | None = None
    tenant_id: str | None = None


class InstanceSettled(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="settled"):
    """hostd looked at an instance by itself; `finding` is a `Settlement`.

    `ended` says how its VMM ended, where hostd has seen it.
    """

    at_ms: int
    tenant_id: str
    pool_id: str
    instance_id: str
    finding: str
    before: str
    after: str
    reason: str
    ended: str | None = None


Event = InstanceChanged | RequestEnded | InstanceSettled


def encode(event: Event) -> bytes:
    """The JSON of `event`, as it stands in the stream's field `event`."""
    return msgspec.json.encode(event)


def outcome_of(result: Result) -> str:
    """`done`, or the class of the failure."""
    match result:
        case Done() | Pong():
            return "done"
        case Failed():
            return result.failure_class


def say(description: str, request_id: str, result: Result) -> None:
    """One log line for the end of a request."""
    match result:
        case Done():
            how = "replayed" if result.replayed else "changed" if result.changed else "unchanged"
            log.info(
                "%s %s: done, %s, %s in %.0f ms",
                request_id, description, result.state, how, result.took_ms,
            )  # fmt: skip
        case Failed():
            log.warning("%s %s: %s", request_id, description, result)
        case Pong():
            log.debug("%s %s: pong", request_id, description)
