"""Whatever kills hostd again and again is found, and put aside; nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue.requests import InstanceId, Request
from enqueue.results import Done, Failed
from tests.fakes.fuse import KilledError
from tests.fakes.scenarios import ACME, DESTROY, POOL, SLEEP, START, prepare
from tests.fakes.world import World

OTHER = InstanceId("i-00000002")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def deadly(world: World, request: Request, effect: str, *, times: int) -> int:
    """The request `r` kills hostd at that effect, each time; how often it did."""
    world.enqueue(request, "r")
    world.fuse.deadly = effect
    play = world.deliver
    for death in range(times):
        try:
            play()
        except KilledError:
            play = world.restart
        else:
            times = death
            break
    world.fuse.deadly = None
    return times


def result(world: World, request_id: str) -> object:
    return world.published[f"h1_{request_id}"][-1]


def test_a_request_that_kills_hostd_again_and_again_is_quarantined(world: World) -> None:
    prepare(world, [])
    deaths = deadly(world, START, "firewall.put", times=20)
    assert deaths == 4, "one before it is a suspect, three while it is alone"
    failed = result(world, "r")
    assert isinstance(failed, Failed)
    assert failed.code == "broken/quarantined"
    assert isinstance(world.ask(START, "another"), Done), "the instance still works"


def test_a_destroy_is_never_quarantined(world: World) -> None:
    prepare(world, [START])
    assert deadly(world, DESTROY, "vmm.kill", times=8) == 8
    world.restart()
    assert isinstance(result(world, "r"), Done)


def test_after_a_retry_by_hand_a_quarantined_request_is_counted_from_zero(world: World) -> None:
    prepare(world, [])
    deadly(world, START, "firewall.put", times=20)
    assert isinstance(world.ask(START, "r"), Done)


def test_a_request_that_only_ran_beside_is_not_quarantined(world: World) -> None:
    prepare(world, [])
    world.instance("acme", OTHER)
    innocent = type(START)(tenant_id=ACME, pool_id=POOL, instance_id=OTHER)
    world.begin(innocent, "innocent")
    for _ in range(5):
        world.begin(SLEEP, "busy")  # two in an attempt: neither was alone
        world.restart()
        world.ledger.requests.reopen("busy")
    assert isinstance(result(world, "innocent"), Done)
    crashes = "SELECT request_id, crashes FROM requests WHERE crashes > 0"
    with world.ledger.database.transaction() as db:
        assert db.execute(crashes).fetchall() == []


def test_a_shutdown_uses_no_attempt_and_makes_no_suspect(world: World) -> None:
    prepare(world, [])
    world.begin(START, "r")
    world.ledger.requests.uncount_attempt("r")
    world.restart()
    done = result(world, "r")
    assert isinstance(done, Done)
    assert done.attempts == 1
    assert world.context.suspects.untried == 0


def test_a_request_interrupted_by_a_shutdown_never_expires(world: World) -> None:
    prepare(world, [])
    world.begin(START, "r")
    world.ledger.requests.uncount_attempt("r")
    world.now_s += 30 * 86_400
    world.restart()
    assert isinstance(result(world, "r"), Done)


def test_suspects_are_tried_one_at_a_time(world: World) -> None:
    prepare(world, [])
    world.instance("acme", OTHER)
    other = type(START)(tenant_id=ACME, pool_id=POOL, instance_id=OTHER)
    world.begin(START, "one")
    world.begin(other, "two")
    world.restart()
    assert isinstance(result(world, "one"), Done)
    assert isinstance(result(world, "two"), Done)
    assert world.context.suspects.untried == 0
