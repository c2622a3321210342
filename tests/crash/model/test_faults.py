"""An effect that fails: a failed Start leaves nothing, a failed Sleep leaves the guest running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import Request
from enqueue.results import Done, Failed, Result
from tests.fakes.scenarios import DESTROY, SCENARIOS, SLEEP, START, STOP, WAKE, prepare
from tests.fakes.world import World
from worker.errors import Broken, Conflict, Transient
from worker.ports import VmmState

POINTS_AT_MOST = 100
ASKING = ("vmm.ask_to_stop", "agents.drain")


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], World]]:
    made: list[World] = []

    def new() -> World:
        made.append(World(tmp_path / str(len(made))))
        return made[-1]

    yield new
    for world in made:
        world.close()


def failing_at_each_effect(
    name: str, worlds: Callable[[], World]
) -> Iterator[tuple[World, Result, dict[str, Any]]]:
    """The world after the request failed at its n-th effect on the machine, for each n."""
    prelude, request = SCENARIOS[name]
    for at in count(1):
        assert at < POINTS_AT_MOST
        world = worlds()
        prepare(world, prelude)
        before = world.seen()
        world.database.fuse = None  # only the machine fails here
        world.fuse.rearm(at)
        world.fuse.error = Broken("test", "this effect fails")
        result = world.ask(request, "r")
        if len(world.fuse.seen) < at:
            assert isinstance(result, Done)
            assert at > 2
            return
        yield world, result, before


@pytest.mark.parametrize(
    "name", ["setup", "start", "start on a network", "start again", "start encrypted"]
)
def test_a_failed_build_leaves_nothing_behind(name: str, worlds: Callable[[], World]) -> None:
    for world, result, before in failing_at_each_effect(name, worlds):
        assert isinstance(result, Failed)
        assert result.code == "broken/test"
        after = world.seen()
        # A data disk is never undone, an address stays its own, an audit log only grows.
        kept = {"disks", "reservations", "audit"}
        ours = {key: value for key, value in after.items() if key not in kept}
        assert ours == {key: value for key, value in before.items() if key not in kept}
        assert not any("secrets" in disk or "config" in disk for disk in after["disks"]) or (
            name == "start again"
        )
        assert not any(kind == "quota" for kind, _, _ in after["reservations"])


@pytest.mark.parametrize("name", ["sleep", "sleep again"])
def test_a_failed_sleep_leaves_the_guest_running_or_a_complete_image(
    name: str, worlds: Callable[[], World]
) -> None:
    outcomes = set()
    for world, result, _ in failing_at_each_effect(name, worlds):
        assert isinstance(result, Failed)
        seen = world.seen()
        running = list(seen["guests"].values()) == [VmmState.RUNNING]
        asleep = list(seen["images"].values()) == [False]
        assert running != asleep, "the guest lives exactly once"
        assert seen["partial"] == []
        outcomes.add(running)
        world.fuse.rearm()
        assert isinstance(world.ask(SLEEP, "later"), Done)
        assert isinstance(world.ask(WAKE, "then"), Done)
    assert outcomes == {True, False}


def test_a_failed_wake_keeps_the_image_until_it_is_used(worlds: Callable[[], World]) -> None:
    for world, result, before in failing_at_each_effect("wake", worlds):
        assert isinstance(result, Failed)
        seen = world.seen()
        if seen["images"] == before["images"]:
            assert seen["guests"] == {}
        world.fuse.rearm()
        assert isinstance(world.ask(WAKE, "later"), Done)
        assert list(world.seen()["guests"].values()) == [VmmState.RUNNING]


@pytest.mark.parametrize(
    "name", ["stop", "destroy", "teardown", "stop asleep", "destroy encrypted"]
)
def test_a_failed_removal_continues_when_it_is_requested_again(
    name: str, worlds: Callable[[], World]
) -> None:
    prelude, request = SCENARIOS[name]
    undisturbed = worlds()
    prepare(undisturbed, prelude)
    undisturbed.ask(request, "r")
    for at, (world, result, _) in enumerate(failing_at_each_effect(name, worlds), start=1):
        # A guest that cannot be asked to shut down is ended without being asked.
        expected = Done if world.fuse.seen[at - 1] in ASKING else Failed
        assert isinstance(result, expected)
        world.fuse.rearm()
        assert isinstance(world.ask(request, "later"), Done)
        assert without_audit(world) == without_audit(undisturbed)


def test_a_changed_pool_does_not_change_a_running_guest(
    worlds: Callable[[], World],
) -> None:
    world = worlds()
    prepare(world, [START])
    pool = msgspec.json.decode(world.records.pools["acme", "p"])
    pool["instance_resources"]["mem_mib"] = 7
    world.records.pools["acme", "p"] = msgspec.json.encode(pool)
    assert isinstance(world.ask(SLEEP, "s"), Done)
    assert isinstance(world.ask(WAKE, "w"), Done)
    (spec,) = world.vmm.machine.specs.values()
    assert spec.mem_mib == 1
    assert isinstance(world.ask(STOP, "x"), Done)
    assert isinstance(world.ask(START, "y"), Done)
    (spec,) = world.vmm.machine.specs.values()
    assert spec.mem_mib == 7


@pytest.mark.parametrize("request_", [STOP, DESTROY], ids=["stop", "destroy"])
@pytest.mark.parametrize("damage", ["image", "hung", "tenant", "pool", "secrets"])
def test_stop_and_destroy_are_always_possible(
    request_: Request, damage: str, worlds: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds()
    prepare(world, [START, SLEEP] if damage == "image" else [START])
    match damage:
        case "image":
            (generation,) = world.images.published.values()
            next(iter(generation.sizes)).write_bytes(b"torn")
        case "hung":
            late = Transient("vmm_timeout", "it does not answer")
            monkeypatch.setattr(world.vmm, "state", raising(late))
        case "tenant":
            world.records.tenants["acme"] = b"{"
        case "pool":
            world.records.pools["acme", "p"] = b"{"
        case _:
            monkeypatch.setattr(
                world.records, "secrets", raising(Conflict("bad_document", "unreadable"))
            )
    result = world.ask(request_, "r")
    assert isinstance(result, Done), result
    seen = world.seen()
    assert (seen["guests"], seen["groups"], seen["jails"], seen["images"]) == ({}, {}, [], {})
    assert [name for name in seen["links"] if name.startswith("tn")] == []


def test_an_unreadable_instance_document_becomes_a_result_and_destroy_still_works(
    worlds: Callable[[], World],
) -> None:
    world = worlds()
    prepare(world, [START])
    (ref,) = world.records.docs
    world.records.docs[ref] = b"{"
    refused = world.ask(SLEEP, "s")
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/bad_document"
    assert isinstance(world.ask(DESTROY, "d"), Done)
    assert world.vmm.machine.guests == {}
    assert world.cgroups.groups == {}


def test_a_bug_in_a_step_becomes_a_result_and_its_effects_are_undone(
    worlds: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds()
    prepare(world, [])
    before = world.seen()
    monkeypatch.setattr(world.vmm, "boot", raising(KeyError("a bug")))
    result = world.ask(START, "r")
    assert isinstance(result, Failed)
    assert result.code == "broken/bug"
    after = world.seen()
    assert (after["links"], after["groups"]) == (before["links"], before["groups"])
    assert after["guests"] == {}


def without_audit(world: World) -> dict[str, Any]:
    """The machine; two requests may have left a line each where one leaves one."""
    return {key: value for key, value in world.seen().items() if key != "audit"}


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
