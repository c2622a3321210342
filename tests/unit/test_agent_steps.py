"""What requests do with a guest's agent, and what their results tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import Request
from enqueue.results import Done, Failed, Result
from tests.fakes.scenarios import SLEEP, START, STOP, WAKE, prepare
from tests.fakes.world import World
from worker.errors import Broken
from worker.model.names import InstanceRef
from worker.ports import AgentOutcome, VmmState


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def policy(world: World, **values: int) -> None:
    """The pool's times, and whether its guests have an agent."""
    pool = msgspec.json.decode(world.records.pools["acme", "p"])
    pool["runtime_policy"] = values
    world.records.pools["acme", "p"] = msgspec.json.encode(pool)


def done(result: Result) -> dict[str, Any]:
    """The detail of a request that was carried out."""
    assert isinstance(result, Done), result
    return dict(result.detail)


def ref_of(world: World) -> InstanceRef:
    (ref,) = world.records.docs
    return ref


def test_a_sleep_drains_for_as_long_as_the_pool_says(world: World) -> None:
    prepare(world, [])
    policy(world, drain_timeout_seconds=7)
    world.ask(START, "start")
    detail = done(world.ask(SLEEP, "r"))
    assert detail["drain"] == {"outcome": "done", "detail": None, "took_ms": 0}
    assert world.agents.calls == [("drain", 7.0)]


def test_no_agent_is_called_if_the_pool_has_none(world: World) -> None:
    prepare(world, [])
    policy(world, guest_agent=False)
    requests: tuple[Request, ...] = (START, SLEEP, WAKE)
    for number, request in enumerate(requests):
        done(world.ask(request, f"r-{number}"))
    assert done(world.ask(STOP, "stop"))["stop"] == {"asked": True, "ended_by": "guest"}
    assert world.agents.calls == []


def test_a_request_may_set_the_drain_s_time_up_to_the_step_s_limit(world: World) -> None:
    prepare(world, [START])
    world.agents.calls.clear()
    done(world.ask(replaced(SLEEP, drain_timeout_secs=3), "a"))
    done(world.ask(WAKE, "b"))
    done(world.ask(replaced(SLEEP, drain_timeout_secs=86_400), "c"))
    drains = [entry for entry in world.agents.calls if entry[0] == "drain"]
    assert drains == [("drain", 3.0), ("drain", world.context.settings.guest_wait_s)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"force": True}, "forced"), ({"drain_timeout_secs": 0}, "no time is given for it")],
    ids=["force", "0 s"],
)
def test_a_drain_that_is_not_wanted_is_skipped_and_the_result_says_so(
    changes: dict[str, Any], why: str, world: World
) -> None:
    prepare(world, [START])
    world.agents.calls.clear()
    detail = done(world.ask(replaced(SLEEP, **changes), "r"))
    assert detail["drain"] == {"outcome": "skipped", "detail": why}
    assert world.agents.calls == []


@pytest.mark.parametrize(
    "outcome", [AgentOutcome.TIMED_OUT, AgentOutcome.REFUSED, AgentOutcome.VSOCK_UNUSABLE]
)
def test_a_failed_drain_is_reported_and_the_sleep_continues(
    outcome: AgentOutcome, world: World
) -> None:
    prepare(world, [START])
    world.agents.drains = outcome
    result = world.ask(SLEEP, "r")
    assert done(result)["drain"]["outcome"] == outcome.value
    assert isinstance(result, Done)
    assert result.state == "sleeping"


def test_a_warm_guest_is_resumed_to_drain_and_not_if_it_need_not(world: World) -> None:
    prepare(world, [START])
    world.vmm.pause(ref_of(world))
    world.agents.calls.clear()
    assert "drain" in done(world.ask(SLEEP, "a"))
    assert [what for what, _ in world.agents.calls] == ["drain"]
    done(world.ask(WAKE, "b"))
    world.vmm.pause(ref_of(world))
    forced = world.ask(replaced(SLEEP, force=True), "c")
    assert "drain" not in done(forced)
    assert isinstance(forced, Done)
    assert "guest_running" not in [step.name for step in forced.steps]


def test_a_guest_whose_sleep_failed_keeps_running_and_is_notified(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(world, [START])
    world.agents.calls.clear()
    monkeypatch.setattr(world.vmm, "snapshot", failing)
    assert isinstance(world.ask(SLEEP, "r"), Failed)
    assert world.vmm.state(ref_of(world)) is VmmState.RUNNING
    assert [what for what, _ in world.agents.calls] == ["drain", "notify_resumed"]
    assert world.agents.agent_notified(ref_of(world))


def test_a_woken_guest_is_notified_once(world: World) -> None:
    prepare(world, [START, SLEEP])
    world.agents.calls.clear()
    detail = done(world.ask(WAKE, "r"))
    assert detail["agent"] == {"outcome": "done", "detail": None, "took_ms": 0}
    assert world.agents.calls == [("notify_resumed", None)]
    done(world.ask(WAKE, "again"))
    assert world.agents.calls == [("notify_resumed", None)]


@pytest.mark.parametrize("request_", [START, WAKE], ids=["start", "wake"])
def test_a_warm_guest_that_runs_again_is_notified(request_: Any, world: World) -> None:
    prepare(world, [START])
    world.vmm.pause(ref_of(world))
    assert done(world.ask(request_, "r"))["agent"]["outcome"] == "done"
    assert world.agents.agent_notified(ref_of(world))


def test_a_missing_agent_fails_no_request(world: World) -> None:
    prepare(world, [])
    policy(world)
    world.agents.present = False
    assert "ready" not in done(world.ask(START, "a"))
    assert done(world.ask(SLEEP, "b"))["drain"]["outcome"] == "no_agent"
    assert done(world.ask(WAKE, "c"))["agent"]["outcome"] == "no_agent"
    stop = done(world.ask(STOP, "d"))["stop"]
    assert (stop["drain"]["outcome"], stop["ended_by"]) == ("no_agent", "guest")


def test_a_start_waits_for_the_agent_where_the_pool_asks_for_it(world: World) -> None:
    prepare(world, [])
    policy(world, readiness_timeout_seconds=9)
    assert done(world.ask(START, "r"))["ready"]["outcome"] == "done"
    assert world.agents.calls == [("ready", 9.0)]


def test_a_start_whose_guest_is_not_ready_in_time_is_undone_and_retried(world: World) -> None:
    prepare(world, [])
    world.agents.answers_after = 1
    result = world.ask(START, "r")
    assert isinstance(result, Done)
    assert result.attempts == 2


def test_a_guest_that_is_never_ready_leaves_nothing(world: World) -> None:
    prepare(world, [])
    before = world.seen()
    world.agents.present = False
    result = world.ask(START, "r")
    assert isinstance(result, Failed)
    assert result.code == "transient/guest_not_ready"
    after = world.seen()
    for kind in ("guests", "groups", "jails", "links", "docs"):
        assert after[kind] == before[kind]


def test_a_stop_asks_the_agent_then_the_guest_and_says_who_ended_it(world: World) -> None:
    prepare(world, [START])
    stop = done(world.ask(STOP, "r"))["stop"]
    drain = {"outcome": "done", "detail": None, "took_ms": 0}
    assert stop == {"asked": True, "drain": drain, "ended_by": "guest"}


def test_a_guest_that_does_not_shut_down_is_killed_after_the_grace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(world, [START])
    policy(world, graceful_shutdown_seconds=15)
    world.vmm.machine.stops_when_asked = False
    world.agents.drains = AgentOutcome.TIMED_OUT
    given: list[float] = []

    def ask_to_stop(_: InstanceRef, *, timeout_s: float) -> bool:
        given.append(timeout_s)
        return False

    monkeypatch.setattr(world.vmm, "ask_to_stop", ask_to_stop)
    stop = done(world.ask(STOP, "r"))["stop"]
    assert (stop["drain"]["outcome"], stop["ended_by"]) == ("timed_out", "kill")
    assert stop["drain"]["took_ms"] / 1000 + given[0] == pytest.approx(15)
    assert given[0] == pytest.approx(5)
    assert world.vmm.state(ref_of(world)) is VmmState.GONE


def test_a_paused_guest_is_not_asked_to_stop(world: World) -> None:
    prepare(world, [START])
    world.vmm.pause(ref_of(world))
    world.agents.calls.clear()
    assert done(world.ask(STOP, "r"))["stop"] == {"asked": False, "ended_by": "kill"}
    assert world.agents.calls == []


def replaced(request: Any, **changes: Any) -> Any:
    """The request with these fields changed."""
    return msgspec.structs.replace(request, **changes)


def failing(*_: object) -> None:
    raise Broken("snapshot_incomplete", "this snapshot fails")
