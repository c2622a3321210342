"""Faults of the VMM's API, at every call that the driver makes, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from tests.fixtures.real_host import RealHost
from tests.root.faults.lives import arranged, carried_out, mended
from tests.root.faults.table import API, Row, outcome

FAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "400": {"status": 400},
    "503": {"status": 503},
    "no answer": {"hang": True},
    "hangs up": {"close": True},
    "exit 1": {"exit": 1},
    "exit 148": {"exit": 148},
    "exit 149": {"exit": 149},
    "exit 150": {"exit": 150},
    "exit 151": {"exit": 151},
}
AFTER: Final[Mapping[str, Mapping[str, Any]]] = {
    f"done, then {name}": {**FAULTS[name], "after": True}
    for name in ("no answer", "hangs up", "exit 150")
}
CONFIGURE: Final = (
    "PUT /machine-config", "PUT /boot-source", "PUT /drives/rootfs", "PUT /drives/config",
    "PUT /drives/data", "PUT /drives/secrets", "PUT /network-interfaces/net1", "PUT /vsock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ApiPlan:
    """Calls of one request; each of the faults is played at each of them.

    `nth` is the call's number in its VMM; 0: at each.  `before` fails first, with status 400, so
    that the call is made at all.
    """

    operation: str
    calls: tuple[str, ...]
    faults: Mapping[str, Mapping[str, Any]]
    nth: int = 0
    before: str = ""
    said: str = ""


API_PLANS: Final = (
    ApiPlan("StartInstance", ("GET /",), FAULTS),
    ApiPlan("StartInstance", CONFIGURE[:3], FAULTS),
    ApiPlan("StartInstance", CONFIGURE[3:6], FAULTS),
    ApiPlan("StartInstance", CONFIGURE[6:], FAULTS),
    ApiPlan("StartInstance", ("PUT /actions",), {**FAULTS, **AFTER}),
    ApiPlan("SleepInstance", ("GET /",), FAULTS),
    ApiPlan("SleepInstance", ("PATCH /vm",), {**FAULTS, **AFTER}, nth=1),
    ApiPlan("SleepInstance", ("PUT /snapshot/create",), {**FAULTS, **AFTER}),
    ApiPlan(
        "SleepInstance", ("PATCH /vm",), FAULTS, nth=2, before="PUT /snapshot/create",
        said=" to resume, the snapshot having been refused",
    ),
    ApiPlan("WakeInstance", ("GET /",), FAULTS),
    ApiPlan("WakeInstance", ("PUT /snapshot/load",), {**FAULTS, **AFTER}),
    ApiPlan("WakeInstance", ("PATCH /vm",), {**FAULTS, **AFTER}),
    ApiPlan("StopInstance", ("GET /",), FAULTS),
    ApiPlan("StopInstance", ("PUT /actions",), {**FAULTS, **AFTER}, nth=2),
)  # fmt: skip


def played_api(new: Callable[[], RealHost], plan: ApiPlan) -> list[Row]:
    """A row for each fault of the plan; the machine was whole after each."""
    with closing(new()) as world:
        return list(_rows(world, plan))


def _rows(world: RealHost, plan: ApiPlan) -> Iterator[Row]:
    for call in plan.calls:
        for name, fault in plan.faults.items():
            routes: dict[str, Any] = {call: {**fault, "nth": plan.nth}}
            if plan.before:
                routes[plan.before] = {"status": 400}
            cell = _played(world, plan.operation, routes)
            yield Row(API, plan.operation, call + plan.said, name, cell)


def _played(world: RealHost, operation: str, routes: Mapping[str, Any]) -> str:
    arranged(world, operation)
    world.misbehave(routes=routes)
    result = carried_out(world, operation)
    world.misbehave()
    guest = world.guest()
    cell = outcome(result, guest)
    if guest.startswith(("stopped", "asleep")):
        assert list(world.leaks()) == [], (operation, routes, cell)
    mended(world, guest)
    return cell
