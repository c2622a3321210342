"""Admission before the turns, with real threads."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import nullcontext

import pytest

from worker.scheduling.executors import Executors
from worker.scheduling.turns import EXCLUSIVE, Key
from worker.scheduling.waits import Turn, Wait

BOUND_S = 10.0
KEY: Key = ("instance", "a")


class Line:
    """Stories for one instance: who has run, in order."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fatal: list[BaseException] = []
        self.executors = Executors(3, answering=nullcontext, fatal=self.fatal.append)

    def submit(self, name: str) -> threading.Event:
        ended = threading.Event()
        self.executors.submit(self._story(name, ended))
        return ended

    def _story(self, name: str, ended: threading.Event) -> Iterator[Wait]:
        turn = Turn({KEY: EXCLUSIVE}, name)
        yield turn
        while self.executors.is_barred(turn):
            yield turn
        self.ran.append(name)
        ended.set()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    assert made.executors.stop(BOUND_S)
    assert made.fatal == []


def new(turn: Turn, parked: Collection[object]) -> bool:
    return str(turn.in_flight).startswith("new")


def test_parked_stories_block_no_other_and_resume_in_their_order(line: Line) -> None:
    line.executors.close_admission(new)
    parked = [line.submit(f"new-{n}") for n in range(20)]
    assert line.submit("old").wait(BOUND_S)
    assert line.ran == ["old"]
    assert line.executors.waiting() != []
    line.executors.open_admission()
    assert all(ended.wait(BOUND_S) for ended in parked)
    assert line.ran == ["old", *(f"new-{n}" for n in range(20))]


def test_a_story_that_waited_when_admission_closed_is_parked_at_its_turn(line: Line) -> None:
    with line.executors.batch():
        waiting = line.submit("new")
        line.executors.close_admission(new)
    after = line.submit("old")
    assert after.wait(BOUND_S)
    assert line.ran == ["old"]
    line.executors.open_admission()
    assert waiting.wait(BOUND_S)


def test_a_parked_story_can_be_withdrawn(line: Line) -> None:
    line.executors.close_admission(new)
    line.submit("new-a")
    kept = line.submit("new-b")
    assert line.executors.withdraw(lambda in_flight: in_flight == "new-a") == ["new-a"]
    line.executors.open_admission()
    assert kept.wait(BOUND_S)
    assert line.ran == ["new-b"]
    assert line.executors.idle()
