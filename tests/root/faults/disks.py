"""A disk that fails once at each of hostd's own writes and syncs, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from tests.fixtures.diskfaults import SYNCS, DiskFaults
from tests.fixtures.real_host import RealHost
from tests.root.faults.lives import arranged, carried_out, done, mended
from tests.root.faults.table import DISK, Row, outcome

Worlds = Callable[[], RealHost]


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One request, and which part of the places that it passes is played, from 0."""

    operation: str
    part: int = 0
    parts: int = 1


DISK_PLANS: Final = (
    *(DiskPlan("StartInstance", part, 3) for part in range(3)),
    *(DiskPlan("SleepInstance", part, 3) for part in range(3)),
    *(DiskPlan("WakeInstance", part, 3) for part in range(3)),
    DiskPlan("StopInstance"),
    DiskPlan("DestroyInstance"),
)


def played_disks(new: Worlds, plan: DiskPlan, faults: DiskFaults) -> list[Row]:
    """A row for each place of the plan; the machine was whole after each.

    Each is played on a host of its own, since some places are passed only once on a host.
    """
    places = _places(new, plan.operation, faults)
    first, end = (len(places) * at // plan.parts for at in (plan.part, plan.part + 1))
    return list(_rows(new, plan.operation, places[first:end], faults))


def _places(new: Worlds, operation: str, faults: DiskFaults) -> list[str]:
    with closing(new()) as world:
        arranged(world, operation)
        with faults.watching(world.directory) as places:
            done(world, operation)
    return places


def _rows(new: Worlds, operation: str, places: list[str], faults: DiskFaults) -> Iterator[Row]:
    for place in places:
        fault = "EIO" if place.startswith(SYNCS) else "ENOSPC"
        with closing(new()) as world:
            yield Row(DISK, operation, place, fault, _played(world, operation, place, faults))


def _played(world: RealHost, operation: str, place: str, faults: DiskFaults) -> str:
    arranged(world, operation)
    with faults.failing(world.directory, place):
        result = carried_out(world, operation)
        assert faults.fired(), f"{operation} did not come to {place}"
    guest = world.guest()
    cell = outcome(result, guest)
    if guest in ("stopped", "asleep") and operation != "DestroyInstance":
        assert list(world.leaks()) == [], (operation, place, cell)
    mended(world, guest, "DestroyInstance" if operation == "DestroyInstance" else "StopInstance")
    return cell
