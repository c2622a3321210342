"""A host that drains: which requests wait, which run, which guests sleep and wake again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    InstanceRequest,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from enqueue.results import Done, Failed, Result
from tests.fakes.fuse import KilledError
from tests.fakes.scenarios import ACME, POOL, SETUP, TEARDOWN
from tests.fakes.world import World
from worker.drain import policy as plans
from worker.drain import store as drain_note
from worker.drain.policy import Drain, Strategy
from worker.ledger.entries import LedgerEntry
from worker.ledger.requests import Requests

NAMES = ("i-0000000a", "i-0000000b", "i-0000000c")
IDLE = "i-0000000d"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.tenant("acme", 5)
    for name in (*NAMES, IDLE):
        made.instance("acme", name)
    for name in NAMES:
        assert isinstance(made.ask(about(StartInstance, name), f"start-{name}"), Done)
    yield made
    made.close()


def about(kind: type[InstanceRequest], name: str) -> InstanceRequest:
    return kind(tenant_id=ACME, pool_id=POOL, instance_id=InstanceId(name))


def drain(
    world: World, *, seconds: float = 600.0, strategy: Strategy = "sleep", look: bool = True
) -> None:
    """What `hostd drain` writes, and what hostd makes of it."""
    now_ms = int(world.now_s * 1000)
    deadline_ms = now_ms + int(seconds * 1000)
    begun = plans.begun("d1", strategy, now_ms=now_ms, deadline_ms=deadline_ms)
    drain_note.save(begun, world.ledger)
    if look:
        drain_to_rest(world)


def drain_to_rest(world: World) -> None:
    """hostd looks until nothing changes any more."""
    before = None
    while before != (before := noted(world)):
        world.draining.step()
        world.executors.run()


def undrain(world: World, *, look: bool = True) -> None:
    """What `hostd undrain` writes, and what hostd makes of it."""
    drain_note.save(msgspec.structs.replace(noted(world), phase="undraining"), world.ledger)
    if look:
        drain_to_rest(world)


def noted(world: World) -> Drain:
    found = drain_note.load(world.ledger)
    assert found is not None
    return found


def outcomes(world: World) -> dict[str, str | None]:
    return {guest.instance_id: guest.outcome for guest in noted(world).guests}


def statuses(world: World) -> dict[str, str]:
    docs = {ref.instance_id: msgspec.json.decode(raw) for ref, raw in world.records.docs.items()}
    return {name: doc["status"] for name, doc in docs.items()}


def results(world: World, request_id: str) -> list[Result]:
    return world.published.get(f"h1_{request_id}", [])


def kinds(world: World) -> list[str]:
    events = [msgspec.json.decode(event) for _, event in world.events]
    return [event["event"] for event in events if event["event"].startswith("host_")]


def test_a_drain_puts_running_guests_to_sleep_and_undrain_wakes_exactly_them(world: World) -> None:
    before = statuses(world)
    drain(world)
    assert noted(world).phase == "drained"
    assert outcomes(world) == dict.fromkeys(NAMES, plans.SLEPT)
    assert statuses(world) == before | dict.fromkeys(NAMES, "sleeping")
    undrain(world)
    assert noted(world).phase == "undrained"
    assert statuses(world) == before
    world.ask(about(StopInstance, IDLE), "anything")  # which tells the events
    assert kinds(world) == ["host_draining", "host_drained", "host_undrained"]


def test_a_drain_by_stop_is_undone_by_starts(world: World) -> None:
    drain(world, strategy="stop")
    assert outcomes(world) == dict.fromkeys(NAMES, plans.STOPPED)
    assert set(statuses(world).values()) == {"stopped", "created"}
    undrain(world)
    assert statuses(world) == {**dict.fromkeys(NAMES, "running"), IDLE: "created"}


def test_new_work_waits_and_requests_that_end_work_run(world: World) -> None:
    drain(world)
    world.enqueue(about(StartInstance, IDLE), "start")
    world.enqueue(about(WakeInstance, NAMES[0]), "wake")
    world.enqueue(SETUP, "setup")
    world.deliver()
    assert [results(world, name) for name in ("start", "wake", "setup")] == [[], [], []]
    assert isinstance(world.ask(about(SleepInstance, NAMES[1]), "sleep"), Done)
    assert isinstance(world.ask(about(StopInstance, NAMES[1]), "stop"), Done)
    assert isinstance(world.ask(about(DestroyInstance, NAMES[2]), "destroy"), Done)
    undrain(world)
    ended = [results(world, name) for name in ("start", "wake", "setup")]
    assert [[type(one) for one in told] for told in ended] == [[Done]] * 3
    left = {NAMES[1]: "stopped", NAMES[2]: "destroyed"}
    assert statuses(world) == {NAMES[0]: "running", IDLE: "running", **left}


def test_a_waiting_start_does_not_block_the_drain_of_its_instance(world: World) -> None:
    drain(world, look=False)
    world.draining.resume()
    world.enqueue(about(StartInstance, NAMES[0]), "start")
    world.enqueue(SETUP, "setup")
    world.deliver()
    drain_to_rest(world)
    assert outcomes(world) == dict.fromkeys(NAMES, plans.SLEPT)
    assert results(world, "start") == []
    undrain(world)
    (done,) = results(world, "start")
    assert isinstance(done, Done)
    assert not done.changed


def test_what_follows_a_waiting_request_keeps_its_place_behind_it(world: World) -> None:
    drain(world)
    world.enqueue(about(StartInstance, IDLE), "start")
    world.enqueue(about(SleepInstance, IDLE), "sleep")
    world.enqueue(SETUP, "setup")
    world.enqueue(TEARDOWN, "teardown")
    world.deliver()
    assert results(world, "sleep") == results(world, "teardown") == []
    undrain(world)
    assert [type(results(world, name)[-1]) for name in ("start", "sleep")] == [Done, Done]
    assert statuses(world)[IDLE] == "sleeping"
    (refused,) = results(world, "teardown")
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/network_in_use"


def test_what_follows_a_waiting_request_keeps_its_place_across_a_restart(world: World) -> None:
    drain(world)
    world.enqueue(about(StartInstance, IDLE), "start")
    world.enqueue(about(SleepInstance, IDLE), "sleep")
    world.deliver()
    world.restart()
    assert results(world, "sleep") == []
    undrain(world)
    assert [type(results(world, name)[-1]) for name in ("start", "sleep")] == [Done, Done]


def test_no_client_can_send_a_request_as_a_drain(world: World) -> None:
    world.enqueue(about(StopInstance, NAMES[0]), "drain-d1", issuer="hostd:drain")
    world.deliver()
    (refused,) = results(world, "drain-d1")
    assert isinstance(refused, Failed)
    assert refused.code == "rejected/malformed"
    assert statuses(world)[NAMES[0]] == "running"


def test_a_request_that_waits_for_its_retry_when_the_drain_begins_waits_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_attempt = Requests.begin_attempt
    attempts: list[str] = []

    def attempted(
        requests: Requests, request_id: str, now_ms: int, *, alone: bool = False
    ) -> LedgerEntry:
        attempts.append(request_id)
        drain(world, look=False)
        world.draining.resume()  # as the housekeeping does, while the attempt runs
        return begin_attempt(requests, request_id, now_ms, alone=alone)

    with (
        monkeypatch.context() as patched,
        world.context.locks.instance("acme", IDLE, request_id="somebody else"),
    ):
        patched.setattr(Requests, "begin_attempt", attempted)
        world.enqueue(about(StartInstance, IDLE), "start")
        world.deliver()
    assert attempts == ["start"], "its lock was held, and it is not tried again"
    assert results(world, "start") == []
    drain_to_rest(world)
    undrain(world)
    assert isinstance(results(world, "start")[0], Done)


def test_a_stop_supersedes_a_waiting_start(world: World) -> None:
    drain(world)
    world.enqueue(about(StartInstance, IDLE), "start")
    world.deliver()
    assert isinstance(world.ask(about(StopInstance, IDLE), "stop"), Done)
    (failed,) = results(world, "start")
    assert isinstance(failed, Failed)
    assert failed.code == "conflict/superseded"


def test_a_stop_of_the_drain_itself_supersedes_nothing(world: World) -> None:
    drain(world, strategy="stop", look=False)
    world.draining.resume()
    world.enqueue(about(StartInstance, NAMES[0]), "start")
    world.deliver()
    drain_to_rest(world)
    assert results(world, "start") == []
    undrain(world)
    assert isinstance(results(world, "start")[0], Done)


@pytest.mark.parametrize("rebooted", [False, True])
def test_the_state_is_kept_across_a_restart(world: World, rebooted: bool) -> None:
    drain(world)
    world.enqueue(about(StartInstance, IDLE), "start")
    world.deliver()
    world.restart(rebooted=rebooted)
    drain_to_rest(world)
    assert results(world, "start") == []
    assert statuses(world) == {**dict.fromkeys(NAMES, "sleeping"), IDLE: "created"}
    undrain(world)
    assert set(statuses(world).values()) == {"running"}


def test_undrain_skips_instances_that_got_a_later_request(world: World) -> None:
    drain(world)
    world.ask(about(SleepInstance, NAMES[0]), "it-is-to-sleep")
    world.ask(about(StopInstance, NAMES[1]), "it-is-to-stop")
    undrain(world)
    assert [statuses(world)[name] for name in NAMES] == ["sleeping", "stopped", "running"]
    left = {str(guest.instance_id): guest.left for guest in noted(world).guests}
    assert "it-is-to-sleep" in str(left[NAMES[0]])
    assert "it-is-to-stop" in str(left[NAMES[1]])
    assert left[NAMES[2]] is None


def test_after_the_deadline_nothing_is_begun(world: World) -> None:
    drain(world, seconds=0.0)
    assert noted(world).phase == "drained"
    assert outcomes(world) == dict.fromkeys(NAMES)
    assert [statuses(world)[name] for name in NAMES] == ["running"] * 3


def test_what_fits_is_begun_smallest_first_and_the_rest_is_reported_running(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = world.images.publish

    def slow(*image: Any) -> None:
        world.now_s += 0.006
        publish(*image)

    monkeypatch.setattr(world.images, "publish", slow)
    drain(world, seconds=0.009)  # a MiB each; 200 MiB/s are assumed
    assert noted(world).order == "smallest_first"
    assert noted(world).phase == "drained"
    assert sorted(map(str, outcomes(world).values())) == ["None", "None", "slept"]
    assert len(drain_note.running_guests(world.context.host)) == 2


def test_a_sleep_not_begun_at_the_deadline_never_runs(world: World) -> None:
    drain(world, look=False)
    world.draining.step()
    world.now_s += 601.0
    drain_to_rest(world)
    assert outcomes(world) == dict.fromkeys(NAMES, plans.NOT_BEGUN)
    assert [statuses(world)[name] for name in NAMES] == ["running"] * 3
    (failed,) = results(world, f"drain-d1-{NAMES[0]}")
    assert isinstance(failed, Failed)
    assert failed.code == "conflict/cancelled"


def test_a_repeated_drain_continues_with_the_rest(world: World) -> None:
    drain(world, seconds=0.0)
    later_ms = int(world.now_s * 1000) + 600_000
    again = plans.extended(noted(world), "sleep", deadline_ms=later_ms)
    drain_note.save(again, world.ledger)
    drain_to_rest(world)
    assert outcomes(world) == dict.fromkeys(NAMES, plans.SLEPT)


def test_a_sleep_that_fails_is_reported_by_its_code_and_not_tried_after_undrain(
    world: World,
) -> None:
    world.images.free_bytes = 0
    drain(world)
    assert set(outcomes(world).values()) == {"transient/no_space"}
    undrain(world)
    world.images.free_bytes = 1 << 40
    world.restart()
    assert [statuses(world)[name] for name in NAMES] == ["running"] * 3


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_effect_a_drain_and_its_undrain_reach_the_same_end(
    tmp_path: Path, after: bool
) -> None:
    for at in count(1):
        world = World(tmp_path / str(at))
        world.tenant("acme", 5)
        for name in (NAMES[0], IDLE):
            world.instance("acme", name)
        world.ask(about(StartInstance, NAMES[0]), "start-a")
        drain(world, look=False)
        world.enqueue(about(StartInstance, IDLE), "start")
        killed = struck(world, at, after=after)
        assert statuses(world) == {NAMES[0]: "sleeping", IDLE: "created"}
        undrain(world, look=False)
        killed |= struck(world, at, after=after)
        world.deliver()
        assert statuses(world) == {NAMES[0]: "running", IDLE: "running"}
        assert [guest.back for guest in noted(world).guests] == [f"undrain-d1-{NAMES[0]}"]
        memory = [guest.memory for guest in world.vmm.machine.guests.values()]
        world.close()
        assert memory == [0, 0], "nothing was booted twice"
        if not killed:
            assert at > 30
            return


def struck(world: World, at: int, *, after: bool) -> bool:
    """Whether this was killed at that effect; then hostd has started again and gone on."""
    world.fuse.rearm(at, after=after)
    try:
        drain_to_rest(world)
    except KilledError:
        world.fuse.rearm()
        world.restart()
        drain_to_rest(world)
        return True
    world.fuse.rearm()
    return False
