"""What every implementation of the port `Agents` does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_vmm import moved
from tests.fakes.agents import FakeAgents
from tests.fakes.vmm import FakeVmm
from tests.fixtures.vmm import REAL, STAND_IN, Programs, Rig, driver_rig, real_programs
from worker import simulator
from worker.host.agents.agents import GuestAgents
from worker.model.layout import Layout
from worker.ports import AgentOutcome, Agents, VmSpec

LONG_S = 60.0


@dataclass
class Asked:
    """A machine for one instance, and whoever asks its guest's agent."""

    rig: Rig
    agents: Agents

    def up(self) -> None:
        """The guest runs."""
        self.rig.up()

    def drain(self, timeout_s: float = LONG_S) -> AgentOutcome:
        """What came of a drain."""
        return self.agents.drain(self.rig.ref, timeout_s=timeout_s).outcome

    def notify_resumed(self) -> AgentOutcome:
        """What came of telling the guest."""
        return self.agents.notify_resumed(self.rig.ref).outcome

    def notified(self) -> bool:
        """Whether the guest counts as notified of its resume."""
        return self.agents.agent_notified(self.rig.ref)

    def heard(self) -> list[Any]:
        """What the stand-in's agent, which takes notes, was asked."""
        lines = (self.rig.jail().root / "heard").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def loaded_anew(self, directory: Path) -> None:
        """The guest sleeps and runs on in a new VMM, its agent not told of it."""
        rig = self.rig
        rig.vmm.pause(rig.ref)
        image = moved(rig.vmm.snapshot(rig.spec), directory)
        rig.vmm.kill(rig.ref, timeout_s=5)
        rig.load(image)
        rig.vmm.resume(rig.ref)


StandIn = Callable[..., Asked]


@pytest.fixture
def stand_in_with(
    request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path
) -> Iterator[StandIn]:
    """The driver with stand-ins whose guest has an agent, and these faults."""
    made: list[Rig] = []

    def make(*, timeout_s: float = 5.0, **faults: Any) -> Asked:
        settled = {"agent": True, "tick_ms": 2000, "version": "1.17.0"} | faults
        programs = Programs(*simulator.install(tmp_path / "programs", **settled))
        rig = driver_rig(request, programs, vmm_spec, tmp_path)
        made.append(rig)
        return Asked(rig, GuestAgents(rig.layout, rig.driver(), timeout_s=timeout_s))

    yield make
    for rig in made:
        rig.clean()


def faked(spec: VmSpec, tmp_path: Path) -> tuple[Asked, FakeAgents]:
    vmm = FakeVmm(Layout(tmp_path / "state"))
    agents = FakeAgents(vmm.machine)
    return Asked(Rig(vmm, spec, (), vmm.layout, vmm.restarted), agents), agents


@pytest.fixture(params=["fake", STAND_IN])
def asked(request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path) -> Asked:
    """A guest with an agent that does what it is asked."""
    if request.param == "fake":
        return faked(vmm_spec, tmp_path)[0]
    make: StandIn = request.getfixturevalue("stand_in_with")
    return make()


@pytest.fixture(params=["fake", STAND_IN, REAL])
def agentless(request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path) -> Iterator[Asked]:
    """A guest without an agent."""
    match request.param:
        case "fake":
            asked, agents = faked(vmm_spec, tmp_path)
            agents.present = False
            yield asked
        case "stand-in":
            make: StandIn = request.getfixturevalue("stand_in_with")
            yield make(agent=False)
        case _:
            rig = driver_rig(request, real_programs(), vmm_spec, tmp_path)
            yield Asked(rig, GuestAgents(rig.layout, rig.driver()))
            rig.clean()


def test_an_agent_drains_and_the_guest_no_longer_counts_as_notified(asked: Asked) -> None:
    asked.up()
    assert asked.notify_resumed() is AgentOutcome.DONE
    assert asked.notified()
    assert asked.drain() is AgentOutcome.DONE
    assert not asked.notified()


def test_an_agent_that_answers_is_ready_from_then_on(asked: Asked) -> None:
    asked.up()
    assert not asked.agents.agent_seen(asked.rig.ref)
    answer = asked.agents.ready(asked.rig.ref, timeout_s=LONG_S)
    assert answer.outcome is AgentOutcome.DONE
    assert asked.agents.agent_seen(asked.rig.ref)
    assert not asked.notified()


def test_a_guest_must_be_notified_again_after_a_pause(asked: Asked) -> None:
    asked.up()
    asked.notify_resumed()
    asked.rig.vmm.pause(asked.rig.ref)
    asked.rig.vmm.resume(asked.rig.ref)
    assert not asked.notified()
    assert asked.notify_resumed() is AgentOutcome.DONE
    assert asked.notified()


def test_a_guest_in_a_new_vmm_is_neither_notified_nor_ready(asked: Asked, tmp_path: Path) -> None:
    asked.up()
    asked.notify_resumed()
    asked.agents.ready(asked.rig.ref, timeout_s=LONG_S)
    asked.loaded_anew(tmp_path / "image")
    assert not asked.notified()
    assert not asked.agents.agent_seen(asked.rig.ref)
    assert asked.notify_resumed() is AgentOutcome.DONE
    assert asked.drain() is AgentOutcome.DONE


def test_of_a_vmm_that_is_gone_nothing_is_heard(asked: Asked) -> None:
    assert asked.drain() is AgentOutcome.NO_AGENT
    assert asked.notify_resumed() is AgentOutcome.NO_AGENT
    assert asked.agents.ready(asked.rig.ref, timeout_s=LONG_S).outcome is AgentOutcome.NO_AGENT
    assert not asked.notified()


def test_a_guest_without_agent_counts_as_notified_and_is_never_ready(agentless: Asked) -> None:
    agentless.up()
    assert agentless.drain() is AgentOutcome.NO_AGENT
    assert agentless.notify_resumed() is AgentOutcome.NO_AGENT
    assert agentless.notified()
    assert agentless.agents.ready(agentless.rig.ref, timeout_s=0.3).outcome is AgentOutcome.NO_AGENT
    assert not agentless.agents.agent_seen(agentless.rig.ref)


def test_an_agent_may_refuse(vmm_spec: VmSpec, tmp_path: Path) -> None:
    asked, agents = faked(vmm_spec, tmp_path)
    agents.drains = AgentOutcome.REFUSED
    asked.up()
    assert asked.drain() is AgentOutcome.REFUSED


# ---------------------------------------------------------------- of the stand-in's agent alone


@pytest.mark.root
@pytest.mark.parametrize(
    ("faults", "outcome", "detail"),
    [
        ({"agent_drain_ok": False}, AgentOutcome.REFUSED, "simulated: still busy"),
        ({"agent_drain_ms": 300}, AgentOutcome.DONE, None),
        ({"agent_faults": ["old"]}, AgentOutcome.DONE, None),
        ({"agent_faults": ["dribble"]}, AgentOutcome.DONE, None),
        ({"agent_faults": ["mute"]}, AgentOutcome.DONE, None),
        ({"agent_faults": ["mismatch"]}, AgentOutcome.REFUSED, "it speaks protocol version 1"),
        ({"agent_faults": ["error"]}, AgentOutcome.REFUSED, r"simulated: \?\[31mno\?o{300,}"),
        ({"agent_faults": ["garbage"]}, AgentOutcome.GARBLED, ".*not a message.*"),
        ({"agent_faults": ["nested"]}, AgentOutcome.GARBLED, ".*not a message.*"),
        ({"agent_faults": ["oversized"]}, AgentOutcome.GARBLED, ".*262145 bytes.*"),
        (
            {"agent_faults": ["foreign"]},
            AgentOutcome.GARBLED,
            "it did not answer what it was asked",
        ),
        ({"agent_faults": ["torn"]}, AgentOutcome.GARBLED, "it closed the connection"),
        ({"agent_faults": ["no_ok"]}, AgentOutcome.GARBLED, ".*not a VMM's"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_any_message_of_an_agent_leads_to_an_answer(
    faults: dict[str, Any], outcome: AgentOutcome, detail: str | None, stand_in_with: StandIn
) -> None:
    asked = stand_in_with(**faults)
    asked.up()
    answer = asked.agents.drain(asked.rig.ref, timeout_s=LONG_S)
    assert answer.outcome is outcome
    if detail is None:
        assert answer.detail is None
    else:
        assert answer.detail is not None
        assert re.fullmatch(detail, answer.detail)
        assert len(answer.detail) <= 500
    assert answer.took_ms >= faults.get("agent_drain_ms", 0)


@pytest.mark.root
@pytest.mark.parametrize(
    "faults", [{"agent_silent": ["SleepPrep"]}, {"agent_faults": ["deaf"]}], ids=str
)
def test_an_agent_that_never_answers_is_left_at_its_deadline(
    faults: dict[str, Any], stand_in_with: StandIn
) -> None:
    asked = stand_in_with(timeout_s=0.3, **faults)
    asked.up()
    answer = asked.agents.drain(asked.rig.ref, timeout_s=0.6)
    assert answer.outcome is AgentOutcome.TIMED_OUT
    assert answer.took_ms >= 250


@pytest.mark.root
def test_a_drain_has_the_time_that_it_is_given_not_that_of_a_hello(stand_in_with: StandIn) -> None:
    asked = stand_in_with(timeout_s=0.3, agent_drain_ms=700)
    asked.up()
    assert asked.drain() is AgentOutcome.DONE


@pytest.mark.root
def test_a_paused_guest_takes_no_connection(stand_in_with: StandIn) -> None:
    asked = stand_in_with(timeout_s=0.7)
    asked.up()
    asked.rig.vmm.pause(asked.rig.ref)
    assert asked.drain() is AgentOutcome.NO_AGENT


@pytest.mark.root
@pytest.mark.parametrize(
    ("faults", "heard"), [([], ["Wake", "PostRestore"]), (["mute"], ["Wake"])], ids=str
)
def test_an_agent_that_offers_it_hears_of_the_restore_after_the_wake(
    faults: list[str], heard: list[str], stand_in_with: StandIn
) -> None:
    asked = stand_in_with(agent_faults=["note", *faults])
    asked.up()
    asked.notify_resumed()
    assert asked.heard() == heard


@pytest.mark.root
def test_the_guest_learns_how_long_it_may_drain(stand_in_with: StandIn) -> None:
    asked = stand_in_with(agent_faults=["note"])
    asked.up()
    asked.drain(30.0)
    assert asked.heard() == [{"SleepPrep": {"drain_timeout_secs": 29}}]


@pytest.mark.root
def test_no_agent_is_called_after_a_bare_resume_that_breaks_vsock(
    stand_in_with: StandIn,
) -> None:
    asked = stand_in_with(version="1.16.1")
    rig = asked.rig
    asked.up()
    rig.vmm.pause(rig.ref)
    rig.vmm.snapshot(rig.spec)
    rig.vmm.resume(rig.ref)
    assert asked.drain() is AgentOutcome.DONE
    rig.vmm.pause(rig.ref)
    rig.vmm.resume(rig.ref)
    assert asked.drain() is AgentOutcome.VSOCK_UNUSABLE
    assert asked.notify_resumed() is AgentOutcome.VSOCK_UNUSABLE
    assert asked.notified()


@pytest.mark.root
def test_no_agent_is_called_after_a_restore_that_breaks_vsock(
    stand_in_with: StandIn, tmp_path: Path
) -> None:
    asked = stand_in_with(version="1.16.0")
    asked.up()
    assert asked.drain() is AgentOutcome.DONE
    asked.loaded_anew(tmp_path / "image")
    assert asked.notify_resumed() is AgentOutcome.VSOCK_UNUSABLE
    assert asked.notified()


@pytest.mark.root
def test_a_symlink_in_the_place_of_the_socket_is_not_followed(stand_in_with: StandIn) -> None:
    asked = stand_in_with()
    asked.up()
    path = asked.rig.driver().vsock(asked.rig.ref)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert asked.drain() is AgentOutcome.NO_AGENT
