"""Look, write down, act, look again; take back what a failing request began."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

from enqueue.times import Clock
from worker.errors import Broken, Conflict, Transient
from worker.ports import Host
from worker.steps.engine import Outcome, execute
from worker.steps.step import IrrevocableError, Step


@dataclass
class Machine:
    """What is true on a tiny machine, and what was done to it, in order."""

    true: set[str] = field(default_factory=set)
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Make:
    """`what` is true."""

    what: str
    machine: Machine
    fails: Exception | None = None
    hollow: bool = False
    undo_fails: Exception | None = None

    @property
    def name(self) -> str:
        return self.what

    def done(self, host: Host) -> bool:
        return self.what in self.machine.true

    def apply(self, host: Host) -> dict[str, str]:
        self.machine.log.append(f"apply {self.what}")
        if self.fails:
            raise self.fails
        if not self.hollow:
            self.machine.true.add(self.what)
        return {self.what: "made"}

    def undo(self, host: Host) -> None:
        if self.undo_fails:
            raise self.undo_fails
        self.machine.log.append(f"undo {self.what}")
        self.machine.true.discard(self.what)


@dataclass
class MemoryJournal:
    """A journal that remembers in memory."""

    log: list[str]
    begun: set[str] = field(default_factory=set)

    def began(self, request_id: str, step: str, now_ms: int) -> None:
        self.log.append(f"began {step}")
        self.begun.add(step)

    def finished(self, request_id: str, step: str, now_ms: int) -> None:
        self.log.append(f"finished {step}")

    def begun_steps(self, request_id: str) -> frozenset[str]:
        return frozenset(self.begun)

    def undone(self, request_id: str, steps: Sequence[str]) -> None:
        self.begun -= set(steps)


def run(
    plan: Sequence[Step], journal: MemoryJournal, monotonic: Callable[[], float] = lambda: 0.0
) -> Outcome:
    clock = Clock(wall=lambda: 0.0, monotonic=monotonic)
    host = cast("Host", None)  # these steps carry their machine themselves
    return execute(plan, host=host, journal=journal, request_id="r", clock=clock, deadline_s=10.0)


def test_a_step_is_journalled_before_it_acts_and_checked_after() -> None:
    machine = Machine()
    outcome = run([Make("a", machine)], MemoryJournal(machine.log))
    assert machine.log == ["began a", "apply a", "finished a"]
    assert outcome.changed
    assert outcome.detail == {"a": "made"}


def test_a_step_that_holds_already_is_not_applied() -> None:
    machine = Machine(true={"a"})
    outcome = run([Make("a", machine)], MemoryJournal(machine.log))
    assert machine.log == ["finished a"]
    assert not outcome.changed


def test_a_step_without_effect_is_broken_and_undone() -> None:
    machine = Machine()
    outcome = run([Make("a", machine, hollow=True)], MemoryJournal(machine.log))
    assert isinstance(outcome.error, Broken)
    assert outcome.error.code == "broken/no_effect"
    assert outcome.undone == ("a",)


def test_a_failing_request_undoes_in_reverse_only_what_it_began() -> None:
    machine = Machine(true={"network"})
    failing = Make("c", machine, fails=Transient("no_space", "full"))
    plan = [Make("network", machine), Make("a", machine), Make("b", machine), failing]
    outcome = run(plan, MemoryJournal(machine.log))
    assert outcome.undone == ("c", "b", "a")
    assert machine.true == {"network"}


def test_no_step_before_an_irrevocable_one_is_undone() -> None:
    machine = Machine()
    plan = [
        Make("pause", machine),
        Make("publish", machine, undo_fails=IrrevocableError()),
        Make("kill", machine, fails=Conflict("x", "no")),
    ]
    outcome = run(plan, MemoryJournal(machine.log))
    assert outcome.undone == ("kill",)
    assert machine.true == {"pause", "publish"}


def test_an_undo_that_fails_does_not_stop_the_others() -> None:
    machine = Machine()
    plan = [
        Make("a", machine),
        Make("b", machine, undo_fails=OSError("busy")),
        Make("c", machine, fails=Conflict("x", "no")),
    ]
    journal = MemoryJournal(machine.log)
    assert run(plan, journal).undone == ("c", "a")
    assert journal.begun == {"b"}


def test_the_deadline_is_checked_between_steps_and_interrupts_none() -> None:
    machine = Machine()
    ticks = iter([0.0, 0.0, 11.0, 11.0, 11.0])
    outcome = run(
        [Make("a", machine), Make("b", machine)],
        MemoryJournal(machine.log),
        monotonic=lambda: next(ticks),
    )
    assert outcome.error is not None
    assert outcome.error.code == "transient/deadline"
    assert "apply b" not in machine.log


def test_an_errno_that_no_adapter_translates_is_a_result_not_a_crash() -> None:
    machine = Machine()
    full = run([Make("a", machine, fails=OSError(28, "No space left"))], MemoryJournal([]))
    other = run([Make("a", machine, fails=OSError(5, "I/O error"))], MemoryJournal([]))
    assert full.error is not None
    assert other.error is not None
    assert (full.error.code, other.error.code) == ("transient/no_space", "broken/host_error")
