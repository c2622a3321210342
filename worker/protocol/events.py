"""Events for agentd's stream, and the log line of a request's end."""

from __future__ import annotations

import logging
from enum import Enum

import msgspec

from enqueue.results import Done, Failed, Pong, Result

log = logging.getLogger("hostd")


class Kind(Enum):
    """The kinds of leftovers, in the order of their removal: the reverse of a start."""

    VMM = "vmm"
    MOUNT = "mount"
    JAIL = "jail"
    MAPPER = "mapper"
    TAP = "tap"
    GUEST_RULES = "guest_rules"
    CGROUP = "cgroup"
    SECRETS = "secrets"
    IMAGE = "image"
    RESERVATION = "reservation"
    BRIDGE = "bridge"
    RULES = "rules"


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


class InstanceReconciled(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="reconciled"
):
    """hostd reconciled an instance by itself; `finding` is a `worker.plans.reconcile.Finding`.

    `ended` says how its VMM ended, if hostd saw it.
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


class LeftoverSwept(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="swept"):
    """hostd removed a leftover; `kind` is a `Kind`, `why` a text.

    `seen_s` is how long it was seen before; `by` is `hostd`, or `operator` for a command.
    """

    at_ms: int
    kind: str
    name: str
    why: str
    by: str
    seen_s: float
    instance_id: str | None = None
    tenant_id: str | None = None


class RulesPutBack(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rules_put_back"
):
    """A tenant's packet rules were missing and have been restored."""

    at_ms: int
    tenant_id: str


class MissingConfinement(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="missing_confinement"
):
    """A guest runs without its TAP or its cgroup, as `lacks` says; only a new start repairs it."""

    at_ms: int
    tenant_id: str
    pool_id: str
    instance_id: str
    lacks: str


class HostDraining(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="host_draining"
):
    """New work waits from now on; `guests` are put to sleep or stopped until `deadline_ms`."""

    at_ms: int
    drain_id: str
    strategy: str
    deadline_ms: int
    guests: int


class HostDrained(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="host_drained"):
    """The drain has ended: `away` of its `guests` sleep or are stopped; new work still waits."""

    at_ms: int
    drain_id: str
    away: int
    guests: int


class HostUndrained(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="host_undrained"
):
    """New work resumes; `back` of the drain's guests are brought back, `left` are not."""

    at_ms: int
    drain_id: str
    back: int
    left: int


Event = (
    InstanceChanged
    | RequestEnded
    | InstanceReconciled
    | LeftoverSwept
    | RulesPutBack
    | MissingConfinement
    | HostDraining
    | HostDrained
    | HostUndrained
)


def encode(event: Event) -> bytes:
    """The JSON of `event`, as in the stream's field `event`."""
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
