"""The soak's check of order."""

from __future__ import annotations

from typing import Any

import pytest

from tests.soak.findings import History, evaluate
from tests.soak.logs import Line
from tests.soak.order import Asked, follow


def done(op: str, *, changed: bool = True) -> Asked:
    return Asked("r", op, {"kind": "done", "changed": changed})


def failed(op: str, code: str) -> Asked:
    return Asked("r", op, {"kind": "failed", "code": code, "class": code.partition("/")[0]})


def states(*asked: Asked, kills: int = 0) -> set[str]:
    return {possible.state for possible in follow(asked, kills)[0]}


START, SLEEP, WAKE, STOP = "StartInstance", "SleepInstance", "WakeInstance", "StopInstance"


def test_a_life_in_order_is_possible() -> None:
    assert states(done(START), done(SLEEP), done(WAKE), done(STOP)) == {"stopped"}
    assert states(done(START), done(START, changed=False), done(SLEEP)) == {"sleeping"}
    assert states(failed(SLEEP, "conflict/not_running"), done(START)) == {"running"}


@pytest.mark.parametrize(
    "asked",
    [
        [done(SLEEP)],
        [done(START), done(WAKE)],
        [done(START), failed(SLEEP, "conflict/not_running")],
        [done(START), done(SLEEP), failed(WAKE, "lost/memory_lost")],
        [done(START), done(STOP, changed=False)],
    ],
)
def test_an_impossible_result_is_found(asked: list[Asked]) -> None:
    assert follow(asked, 0)[1] is not None


def test_a_kill_explains_a_guest_that_has_stopped_once() -> None:
    gone = failed(SLEEP, "conflict/not_running")
    assert states(done(START), gone, kills=1) == {"stopped"}
    assert follow([done(START), gone, done(START), gone], 1)[1] is not None
    assert states(done(START), failed(SLEEP, "lost/memory_lost"), kills=1) == {"stopped"}
    assert "stopped" in states(done(START), done(SLEEP), failed(WAKE, "lost/memory_lost"), kills=1)


def line(event: str, life: str = "a", counter: int = 0) -> Line:
    return {"instance": "i", "event": event, "life": life, "counter": counter}


def answered(result: dict[str, Any]) -> list[Line]:
    return [
        {"event": "sent", "id": "r", "op": START, "instance": "i"},
        {"event": "acknowledged", "id": "r", "instance": "i"},
        {"event": "answered", "id": "r", "result": result},
    ]


def test_what_is_done_once_is_no_fault() -> None:
    history = History(journal=[line("booted")], status="running", lives=True)
    findings = evaluate([answered({"kind": "done", "changed": True})], {"i": history})
    assert (findings.acknowledged, findings.answered, findings.faults()) == (1, 1, [])


@pytest.mark.parametrize(
    "journal",
    [
        [line("booted"), line("booted", life="b")],
        [line("booted"), {"instance": "i", "event": "second"}],
        [line("booted", counter=5), line("paused", counter=4)],
        [line("booted"), line("woken", counter=3), line("woken", counter=3)],
        [],
    ],
    ids=["boots", "VMMs", "memory", "image", "nothing"],
)
def test_what_is_done_twice_or_not_at_all_is_counted(journal: list[Line]) -> None:
    history = History(journal=journal, status="running", lives=True)
    assert evaluate([answered({"kind": "done", "changed": True})], {"i": history}).double != []


def test_what_is_never_answered_is_lost() -> None:
    log = answered({})[:2]
    assert len(evaluate([log], {"i": History(status="created")}).lost) == 1
