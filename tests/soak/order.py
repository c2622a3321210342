"""Whether an instance's results can have come about in the order in which they were asked for.

A machine of three states is led through the requests of one client in the order of its sends.  All
states it may be in are kept, since a guest that the soak has killed stops at a time nobody knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

STOPPED, RUNNING, SLEEPING = "stopped", "running", "sleeping"
NO_EFFECT = ("conflict/superseded",)
CONFLICTS = {  # the only conflicts there are, and the states they speak of
    ("StartInstance", "conflict/instance_sleeping"): (SLEEPING,),
    ("SleepInstance", "conflict/not_running"): (STOPPED,),
    ("WakeInstance", "conflict/no_image"): (STOPPED,),
}
GOALS = {
    "StartInstance": (RUNNING, (STOPPED,)),
    "WakeInstance": (RUNNING, (SLEEPING,)),
    "SleepInstance": (SLEEPING, (RUNNING,)),
    "StopInstance": (STOPPED, (RUNNING, SLEEPING)),
}


class Asked(NamedTuple):
    """One request and its result."""

    request_id: str
    op: str
    result: dict[str, Any]


class Possible(NamedTuple):
    """A state the instance may be in, and how many kills of its guest explain that."""

    state: str
    kills: int


def led(asked: Sequence[Asked], kills: int) -> tuple[set[Possible], str | None]:
    """All states the instance may be in at the end, or the first request that cannot be."""
    possible = {Possible(STOPPED, 0)}
    for one in asked:
        possible = _with_kills(possible, kills)
        after = {then for before in possible for then in _after(before, one, kills)}
        if not after:
            states = sorted({p.state for p in possible})
            return set(), f"{one.op} {one.request_id} ended {_said(one)} after {states}"
        possible = after
    return _with_kills(possible, kills), None


def _with_kills(possible: set[Possible], kills: int) -> set[Possible]:
    """A running guest may have been killed at any time."""
    more = {
        Possible(STOPPED, p.kills + 1) for p in possible if p.state == RUNNING and p.kills < kills
    }
    return possible | more


def _after(before: Possible, asked: Asked, kills: int) -> Iterator[Possible]:
    code = asked.result.get("code")
    if code is None:
        goal, needs = GOALS[asked.op]
        if before.state in (needs if asked.result["changed"] else (goal,)):
            yield before._replace(state=goal)
    elif code in NO_EFFECT:
        yield before
    elif code.startswith("conflict/"):
        if before.state in CONFLICTS.get((asked.op, code), ()):
            yield before
    elif code == "lost/memory_lost" and before.state == STOPPED:
        if before.kills:  # the guest had been killed, and its record did not know it yet
            yield before
    else:
        if code != "lost/memory_lost":
            yield before
        if before.state == SLEEPING and before.kills < kills:  # killed while it was waking
            yield Possible(STOPPED, before.kills + 1)


def _said(asked: Asked) -> str:
    return str(asked.result.get("code") or f"changed={asked.result['changed']}")
