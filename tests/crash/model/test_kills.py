"""A kill at any effect, any commit, any telling: run again, the same end, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from enqueue.requests import Ping
from enqueue.results import Done, Failed, Pong
from tests.fakes.fuse import KilledError
from tests.fakes.scenarios import SCENARIOS, prepare
from tests.fakes.world import World


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def new() -> World:
        world = World(tmp_path / str(len(made)))
        made.append(world)
        return world

    yield new
    for world in made:
        world.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_restart_after_a_kill_at_any_point_reaches_the_same_end(
    name: str, after: bool, worlds: Callable[[], World]
) -> None:
    prelude, request = SCENARIOS[name]
    undisturbed = worlds()
    prepare(undisturbed, prelude)
    assert isinstance(undisturbed.ask(request, "r"), Done)
    points = len(undisturbed.fuse.seen)
    for at in count(1):
        world = worlds()
        prepare(world, prelude)
        memory = [guest.memory for guest in world.vmm.machine.guests.values()]
        world.fuse.rearm(at, after=after)
        try:
            world.ask(request, "r")
        except KilledError:
            world.fuse.rearm()
            world.restart()
        else:
            assert at == points + 1
            break
        results = world.published["h1_r"]
        assert isinstance(results[-1], Done), results[-1]
        assert all(result == results[0] for result in results), "a told result has changed"
        assert world.seen() == undisturbed.seen()
        assert world.inbox == []
        if name.startswith(("sleep", "wake")):
            assert [g.memory for g in world.vmm.machine.guests.values()] in ([], memory or [0])
        again = world.ask(request, "r-again")
        assert isinstance(again, Done)
        assert not again.changed
        assert not any(step.applied for step in again.steps)


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_second_kill_during_recovery_does_not_change_the_end(
    name: str, worlds: Callable[[], World]
) -> None:
    prelude, request = SCENARIOS[name]
    undisturbed = worlds()
    prepare(undisturbed, prelude)
    undisturbed.ask(request, "r")
    points = len(undisturbed.fuse.seen)
    for first in range(2, points + 1, 5):
        for second in range(1, points + 8, 7):
            world = worlds()
            prepare(world, prelude)
            world.fuse.rearm(first, after=True)
            with pytest.raises(KilledError):
                world.ask(request, "r")
            world.fuse.rearm(second)
            try:
                world.restart()
            except KilledError:
                world.fuse.rearm()
                world.restart()
            world.fuse.rearm()
            assert world.seen() == undisturbed.seen(), (first, second)
            world.close()


@pytest.mark.parametrize("name", ["sleep", "wake", "start"])
def test_a_cancellation_does_not_stop_a_request_that_a_killed_hostd_had_begun(
    name: str, worlds: Callable[[], World]
) -> None:
    prelude, request = SCENARIOS[name]
    undisturbed = worlds()
    prepare(undisturbed, prelude)
    undisturbed.ask(request, "r")
    world = worlds()
    prepare(world, prelude)
    world.fuse.rearm(len(undisturbed.fuse.seen) // 2, after=True)
    with pytest.raises(KilledError):
        world.ask(request, "r")
    world.fuse.rearm()
    world.cancelled.add("h1_r")
    world.restart()
    assert isinstance(world.published["h1_r"][-1], Done)
    assert world.seen() == undisturbed.seen()


def test_a_cancelled_request_that_waits_never_runs(worlds: Callable[[], World]) -> None:
    world = worlds()
    prepare(world, [])
    before = world.seen()
    world.cancelled.add("h1_r")
    result = world.ask(SCENARIOS["start"][1], "r")
    assert isinstance(result, Failed)
    assert result.code == "conflict/cancelled"
    assert world.seen() == before


def test_an_expired_ping_is_refused_like_any_request(
    worlds: Callable[[], World],
) -> None:
    world = worlds()
    assert isinstance(world.ask(Ping(), "p-1"), Pong)
    delivery = world.enqueue(Ping(), "p-2")
    world.now_s += 2 * 86_400
    world.deliver()
    (result,) = world.published[delivery.id]
    assert isinstance(result, Failed)
    assert result.code == "rejected/expired"
