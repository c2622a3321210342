"""Whether an instance's results are possible in the order in which its requests were sent.

A machine of three states goes through the requests of one client in that order.  It keeps every
possible state, since the time at which a killed guest stopped is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

STOPPED, RUNNING, SLEEPING = "stopped", "running", "sleeping"
NO_EFFECT = ("conflict/superseded",)
CONFLICTS = {  # the only conflicts, and the states in which they occur
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
    """A possible state of the instance, and the number of kills of its guest that explain it."""

    state: str
    kills: int


def follow(asked: Sequence[Asked], kills: int) -> tuple[set[Possible], str | None]:
    """All possible states at the end, or the first result that is impossible."""
    possible = {Possible(STOPPED, 0)}
    for one in asked:
        possible = _with_kills(possible, kills)
        after = {then for before in possible for then in _after(before, one, kills)}
        if not after:
            states = sorted({p.state for p in possible})
            return set(), f"{one.op} {one.request_id} ended {_outcome(one)} after {states}"
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
        if before.kills:  # the guest was killed, and its record did not show it yet
            yield before
    else:
        if code != "lost/memory_lost":
            yield before
        if before.state == SLEEPING and before.kills < kills:  # killed during the wake
            yield Possible(STOPPED, before.kills + 1)


def _outcome(asked: Asked) -> str:
    return str(asked.result.get("code") or f"changed={asked.result['changed']}")
