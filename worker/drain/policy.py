"""Decides what a drain does next: which guests, in what order, before its deadline.

Pure.  The disk is taken for one server of a known rate; a guest's memory is the work.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import median
from typing import Any, Final, Literal, assert_never

import msgspec

from enqueue.envelope import UnixMs
from enqueue.requests import (
    Instance,
    InstanceRequest,
    Pool,
    SleepInstance,
    StartInstance,
    StopInstance,
    Tenant,
    WakeInstance,
)
from enqueue.results import Done, Failed, Result

Phase = Literal["draining", "drained", "undraining", "undrained"]
Strategy = Literal["sleep", "stop"]
DrainOrder = Literal["largest_first", "smallest_first"]
SLEPT: Final = "slept"
STOPPED: Final = "stopped"
GONE: Final = "gone"  # it no longer ran when its turn came: another request stopped it
UNCHANGED: Final = "unchanged"  # the same, but found by the drain's request
NOT_BEGUN: Final = "not_begun"
OURS: Final = (SLEPT, STOPPED)  # what undrain brings back
MIB: Final = 1 << 20


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that ran when the drain found it, and its outcome.

    `outcome` is one of this module's words, or a failure's code; None: not known yet.  `back` is
    undrain's request, `left` why there is none.
    """

    tenant_id: Tenant
    pool_id: Pool
    instance_id: Instance
    mem_mib: int
    request_id: str | None = None
    seq: int = 0
    begun_ms: int = 0
    tries: int = 0
    outcome: str | None = None
    back: str | None = None
    left: str | None = None

    @property
    def in_flight(self) -> bool:
        """Whether its request has not ended."""
        return self.request_id is not None and self.outcome is None


class Drain(msgspec.Struct, frozen=True, kw_only=True):
    """The drain as saved in the ledger; times are Unix milliseconds.

    `rate_mib_s` is 0 until hostd has looked.
    """

    id: str
    phase: Phase
    strategy: Strategy
    since_ms: UnixMs
    deadline_ms: UnixMs
    rate_mib_s: float = 0.0
    order: DrainOrder | None = None
    guests: tuple[Guest, ...] = ()
    ended_ms: UnixMs | None = None

    @property
    def in_force(self) -> bool:
        """Whether new work waits."""
        return self.phase != "undrained"

    @property
    def idle(self) -> bool:
        """Whether none of its requests is in flight."""
        return not any(guest.in_flight for guest in self.guests)


def begun(id_: str, strategy: Strategy, *, now_ms: int, deadline_ms: int) -> Drain:
    """A new drain."""
    return Drain(
        id=id_, phase="draining", strategy=strategy, since_ms=now_ms, deadline_ms=deadline_ms
    )


def extended(drain: Drain, strategy: Strategy, *, deadline_ms: int) -> Drain:
    """The drain with another deadline; guests that failed or were not begun are tried again."""
    guests = tuple(
        guest if guest.outcome in (None, *OURS) else _reset(guest) for guest in drain.guests
    )
    return msgspec.structs.replace(
        drain, phase="draining", strategy=strategy, deadline_ms=deadline_ms,
        rate_mib_s=0.0, order=None, guests=guests, ended_ms=None,
    )  # fmt: skip


def _reset(guest: Guest) -> Guest:
    return msgspec.structs.replace(guest, request_id=None, outcome=None, seq=0, begun_ms=0)


def with_guest(drain: Drain, guest: Guest) -> Drain:
    """The drain with this guest updated."""
    guests = (guest if one.instance_id == guest.instance_id else one for one in drain.guests)
    return msgspec.structs.replace(drain, guests=tuple(guests))


def measured(sleeps: Iterable[Result | None]) -> float | None:
    """The MiB per second at which these sleeps wrote images; None if none reports it."""
    rates = []
    for result in sleeps:
        if not isinstance(result, Done) or "image_bytes" not in result.detail:
            continue
        ms = sum(step.ms for step in result.steps if step.name == "image_sealed")
        if ms > 0:
            rates.append(result.detail["image_bytes"] / MIB / (ms / 1000))
    return median(rates) if rates else None


def with_running(drain: Drain, running: Sequence[Guest]) -> Drain:
    """The drain with guests that run now added, and those that no longer run marked.

    Its order is set when it is not yet: largest first if all fit into the time that is left.
    """
    ids = {guest.instance_id for guest in running}
    known = {guest.instance_id for guest in drain.guests}
    guests = [_looked_at(guest, ids) for guest in drain.guests]
    guests += [guest for guest in running if guest.instance_id not in known]
    return msgspec.structs.replace(drain, guests=tuple(guests))


def _looked_at(guest: Guest, running: Collection[str]) -> Guest:
    waits = guest.request_id is None and guest.outcome is None
    if waits and guest.instance_id not in running:
        return msgspec.structs.replace(guest, outcome=GONE)
    if guest.outcome in (*OURS, GONE, UNCHANGED) and guest.instance_id in running:
        return _reset(guest)  # a start that began before the drain has ended since
    return guest


def in_order(drain: Drain, *, now_ms: int) -> Drain:
    """The drain with its order: largest first if all fit, else smallest first, to save most."""
    if drain.order is not None or not drain.guests:
        return drain
    open_mib = sum(guest.mem_mib for guest in drain.guests if guest.outcome is None)
    fits = drain.strategy == "stop" or open_mib <= _capacity_mib(drain, now_ms)
    return msgspec.structs.replace(drain, order="largest_first" if fits else "smallest_first")


def next_guests(drain: Drain, *, now_ms: int, lanes: int) -> list[Guest]:
    """The guests to begin now: at most `lanes` at a time, only those whose estimate fits."""
    flying = [guest for guest in drain.guests if guest.in_flight]
    waiting = [g for g in drain.guests if g.request_id is None and g.outcome is None]
    waiting.sort(
        key=lambda guest: (guest.mem_mib, guest.instance_id),
        reverse=drain.order == "largest_first",
    )
    if now_ms >= drain.deadline_ms:
        return []
    backlog_mib = sum(_left_mib(guest, drain, len(flying), now_ms) for guest in flying)
    chosen: list[Guest] = []
    for guest in waiting:
        if len(flying) + len(chosen) >= lanes:
            break
        if drain.strategy == "stop":
            chosen.append(guest)
        elif backlog_mib + guest.mem_mib <= _capacity_mib(drain, now_ms):
            chosen.append(guest)
            backlog_mib += guest.mem_mib
    return chosen


def _left_mib(guest: Guest, drain: Drain, sharers: int, now_ms: int) -> float:
    written = drain.rate_mib_s / sharers * (now_ms - guest.begun_ms) / 1000
    return max(0.0, guest.mem_mib - written)


def _capacity_mib(drain: Drain, now_ms: int) -> float:
    return max(0.0, drain.rate_mib_s * (drain.deadline_ms - now_ms) / 1000)


def request_of(guest: Guest, drain: Drain, *, now_ms: int, patience_s: int) -> InstanceRequest:
    """The request that puts the guest to sleep, or stops it.

    `patience_s` is how long the pool's guests may take to drain; one that would not be written
    in time after that gets less.
    """
    who = _who(guest)
    match drain.strategy:
        case "stop":
            return StopInstance(**who)
        case "sleep":
            writing_s = guest.mem_mib / drain.rate_mib_s if drain.rate_mib_s else 0.0
            spare_s = max(0, int((drain.deadline_ms - now_ms) / 1000 - writing_s))
            shorter = spare_s if spare_s < patience_s else None
            return SleepInstance(**who, drain_timeout_secs=shorter)
        case _:
            assert_never(drain.strategy)


def request_back(guest: Guest) -> InstanceRequest:
    """The request that brings back a guest that the drain put away."""
    return WakeInstance(**_who(guest)) if guest.outcome == SLEPT else StartInstance(**_who(guest))


def _who(guest: Guest) -> dict[str, Any]:
    return {
        "tenant_id": guest.tenant_id,
        "pool_id": guest.pool_id,
        "instance_id": guest.instance_id,
    }


def outcome_of(result: Result) -> str:
    """A guest's outcome, as one word, from the result of its request."""
    match result:
        case Failed(code="conflict/cancelled" | "rejected/expired"):
            return NOT_BEGUN
        case Failed():
            return result.code
        case Done(changed=False):
            return UNCHANGED
        case _:
            return SLEPT if result.op == "SleepInstance" else STOPPED


def why_left(guest: Guest, *, status: str | None, later: str | None) -> str | None:
    """Why undrain does not bring the guest back; None if it does.

    `later` is a request that somebody else has made about it since, with success.
    """
    if guest.outcome not in OURS:
        return f"the drain did not put it away: {guest.outcome or NOT_BEGUN}"
    if status is None or status == "destroyed":
        return "it was destroyed since"
    if later is not None:
        return f"request {later} has decided about it since: it is {status}"
    wanted = "sleeping" if guest.outcome == SLEPT else "stopped"
    return None if status == wanted else f"it is {status} now"
