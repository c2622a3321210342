"""What an instance is before a fault, and that it can be gone on with after one."""

from __future__ import annotations

import json
from typing import Any, Final

from enqueue.requests import (
    DestroyInstance,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from enqueue.results import Done, Result
from tests.fixtures.real_host import RealHost

_REQUESTS: Final[dict[str, Any]] = {
    kind.__name__: kind
    for kind in (StartInstance, SleepInstance, WakeInstance, StopInstance, DestroyInstance)
}


def carried_out(world: RealHost, operation: str) -> Result:
    """The result of the request about the world's instance."""
    return world.carry_out(_REQUESTS[operation](**world.ids))


def done(world: RealHost, operation: str) -> None:
    """The request is carried out.

    Raises:
        AssertionError: it failed.
    """
    result = carried_out(world, operation)
    assert isinstance(result, Done), result


def arranged(world: RealHost, operation: str) -> None:
    """The instance is what the request is for: created, running or asleep."""
    match operation:
        case "StartInstance":
            pass
        case "WakeInstance":
            _running(world)
            done(world, "SleepInstance")
        case _:
            _running(world)


def mended(world: RealHost, guest: str, last: str = "StopInstance") -> None:
    """Whatever came of a fault, the next request finds its way: one asleep wakes and counts on,
    then the instance can be stopped or destroyed, and nothing of it is left."""
    if guest == "asleep":
        done(world, "WakeInstance")
        assert world.counts_beyond(world.last_count), "it runs on from where it slept"
    done(world, last)
    assert list(world.leaks()) == []


def _running(world: RealHost) -> None:
    done(world, "StartInstance")
    assert world.counts_beyond(0)
    world.last_count = world.counted()


def change_pool(world: RealHost, **fields: Any) -> None:
    """agentd writes the pool's document anew."""
    path = world.layout.pool(world.tenant_id, world.ref.pool_id) / "pool.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
