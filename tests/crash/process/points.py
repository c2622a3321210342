"""Kills one operation on one host at any of its effects, and checks the host afterwards."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from enqueue.client import Ticket
from enqueue.results import Done, Result
from tests.crash.process import invariants
from tests.crash.process.entry import Counting
from tests.crash.process.fuse import At, When
from tests.crash.process.host import Machine
from tests.crash.process.operations import GONE, Ask, Operation
from tests.crash.process.seen import last_event, published_events, results, seen
from tests.fixtures.worker import HOST

_NAMES: Final = re.compile(r"i-[0-9a-f]{8}|r-[0-9]{8}|\S*/hostd-test-[0-9a-z_]+")
_SHOWN: Final = 400


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken invariant after a kill at one point."""

    operation: str
    at: At
    effect: str
    what: str

    def __str__(self) -> str:
        return f"{self.operation}, {self.at} ({self.effect}): {self.what}"


class Enumeration:
    """The effects of one operation, and kills at any of them."""

    def __init__(self, machine: Machine, operation: Operation, first: int = 1) -> None:
        """Runs it twice without a kill: the second run is like every later one."""
        self._machine = machine
        self.operation = operation
        self._next = first
        self._prepare()
        self._run_unkilled()
        self.again()
        self.effects = self._run_unkilled()
        self._end = seen(machine.hostd, self.ref)
        self._events = self._new_events()
        self.again()

    def points(self) -> list[At]:
        """All points, in order."""
        numbers = range(1, len(self.effects) + 1)
        return [At(number, when) for number in numbers for when in When]

    def violations(self, at: At) -> list[Violation]:
        """The violations after a kill there, a restart, and the same request again."""
        effect = self.effects[at.number - 1]
        found = [Violation(self.operation.name, at, effect, what) for what in self._wrong(at)]
        self.again()
        return found

    # ------------------------------------------------------------ one point

    def _wrong(self, at: At) -> Iterator[str]:
        machine, host, ref = self._machine, self._machine.hostd, self.ref
        ticket = self.begin()
        names = [_plain(name) for name in machine.counted(self._counting, at)]
        if (other := _first_other(names, self.effects)) is not None:
            yield f"other effects than without a kill: {other}"
        yield from (f"while hostd was dead: {fault}" for fault in invariants.always(host, ref))
        machine.serve()
        if ticket is not None and not isinstance(result := machine.answer(ticket), Done):
            yield f"the request ended as {result}"
        machine.rest()
        yield from self._differences()
        if (news := self._new_events()) != self._events:
            yield f"other events than without a kill: {news}, not {self._events}"
        if ticket is not None and len(answers := results(host, f"{HOST}_{ticket.request_id}")) != 1:
            yield f"different results published: {answers}"
        yield from _changed(machine.ask(self.operation.asked(ref)))
        machine.rest()
        yield from (f"after the same again: {fault}" for fault in self._differences())

    def _differences(self) -> Iterator[str]:
        host, ref = self._machine.hostd, self.ref
        yield from invariants.at_rest(host, ref)
        found = seen(host, ref)
        for part, wanted in self._end.items():
            if found[part] != wanted:
                yield f"{part}: {_difference(found[part], wanted)}"

    # ------------------------------------------------------------ states

    @property
    def _counting(self) -> Counting:
        return Counting.START if self.operation.happened else Counting.REQUEST

    def _new_events(self) -> list[str]:
        return published_events(self._machine.hostd, self.ref, after=self._before)

    def begin(self) -> Ticket | None:
        """Brings about the work for a hostd that does not run yet; the request's ticket, if any."""
        self._before = last_event(self._machine.hostd)
        if self.operation.happened is not None:
            self.operation.happened(self._machine, self.ref)
            self._before = last_event(self._machine.hostd)
            return None
        return self._machine.enqueue(self.operation.asked(self.ref))

    def _run_unkilled(self) -> list[str]:
        ticket = self.begin()
        effects = self._machine.counted(self._counting)
        self._machine.serve()
        if ticket is not None:
            result = self._machine.answer(ticket)
            assert isinstance(result, Done), result
        self._machine.rest()
        return [_plain(name) for name in effects]

    def again(self) -> None:
        """Restores the state before the operation; hostd does not run."""
        if not self.operation.fresh:
            self._all(self.operation.back)
            return
        self._all(GONE)
        shutil.rmtree(self._machine.hostd.layout.instance(self.ref))
        self._machine.forget_kernel_state()
        self._prepare()

    def _prepare(self) -> None:
        self.ref = self._machine.instance(self._next)
        self._next += 1
        self._all(self.operation.before)

    def _all(self, asks: tuple[Ask, ...]) -> None:
        for ask in asks:
            result = self._machine.ask(ask(self.ref))
            assert isinstance(result, Done), result
        if asks:
            self._machine.rest()
        self._machine.kill()


def _plain(name: str) -> str:
    return _NAMES.sub("*", name)


def _first_other(found: list[str], wanted: list[str]) -> str | None:
    for number, (one, other) in enumerate(zip(found, wanted, strict=False), 1):
        if one != other:
            return f"{number} is {one}, not {other}"
    return None


def _difference(found: Any, wanted: Any) -> str:
    if isinstance(found, list) and isinstance(wanted, list):
        more = [one for one in found if one not in wanted]
        less = [one for one in wanted if one not in found]
        return f"missing {less}, unexpected {more}"[:_SHOWN]
    return f"{json.dumps(found)[:_SHOWN]} is not {json.dumps(wanted)[:_SHOWN]}"


def _changed(result: Result) -> Iterator[str]:
    if not isinstance(result, Done):
        yield f"the same again ended as {result}"
    elif result.changed or any(step.applied for step in result.steps):
        applied = [step.name for step in result.steps if step.applied]
        yield f"the same again changed something: {applied}"
