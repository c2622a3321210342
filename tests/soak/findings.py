"""Evaluates a soak by the logs of clients and killer, the VMMs' journals, and the machine.

Never by hostd's ledger, since the soak tests it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.soak.logs import Line
from tests.soak.order import Asked, Possible, follow

EXPECTED_CLASSES = ("conflict",)


@dataclass
class History:
    """What is known of one instance: its requests, its journal, and its state at the end."""

    asked: list[Asked] = field(default_factory=list)
    journal: list[Line] = field(default_factory=list)
    kills: int = 0
    status: str = ""
    lives: bool = False


@dataclass
class Findings:
    """Counts, and the faults found, each as a sentence."""

    acknowledged: int = 0
    answered: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def faults(self) -> list[str]:
        """All faults."""
        return [*self.lost, *self.double, *self.disorder, *self.leaks]


def evaluate(clients: Iterable[Sequence[Line]], histories: Mapping[str, History]) -> Findings:
    """The findings of these logs; `hihistories` has journal, kills and state of each instance."""
    findings = Findings()
    for log in clients:
        _client(log, histories, findings)
    for instance, history in histories.items():
        findings.disorder += [f"{instance}: {fault}" for fault in _order(history)]
        findings.double += [
            f"{instance}: {fault}" for fault in (*_once(history), *_counted(history))
        ]
    return findings


def _client(log: Sequence[Line], histories: Mapping[str, History], findings: Findings) -> None:
    results = {line["id"]: line["result"] for line in log if line["event"] == "answered"}
    sent = [line for line in log if line["event"] == "sent"]
    acknowledged = {line["id"] for line in log if line["event"] == "acknowledged"}
    findings.acknowledged += len(acknowledged)
    findings.answered += len(results)
    for line in sent:
        result = results.get(line["id"])
        if result is None:
            findings.lost += [f"{line['op']} {line['id']} of {line['instance']} was never answered"]
            continue
        findings.answers[f"{line['op']} {result.get('code') or result['kind']}"] += 1
        histories[line["instance"]].asked.append(Asked(line["id"], line["op"], result))


def _order(history: History) -> Iterator[str]:
    possible, fault = follow(history.asked, history.kills)
    if fault is not None:
        yield fault
    elif history.status not in _statuses(possible):
        yield f"it is {history.status}, its results allow only {sorted(_statuses(possible))}"
    if history.lives != (history.status == "running"):
        yield f"it is {history.status}, and a VMM {'lives' if history.lives else 'does not live'}"


def _statuses(possible: Iterable[Possible]) -> set[str]:
    states = {p.state for p in possible}
    return states | ({"created"} if "stopped" in states else set())


def _once(history: History) -> Iterator[str]:
    """Faults: two VMMs at once, an image used twice, a counter that went back."""
    furthest: dict[str, int] = {}
    woken: set[tuple[str, int]] = set()
    for line in history.journal:
        if line["event"] == "second":
            yield "two VMMs at once"
        if "life" not in line:
            continue
        life, counter = line["life"], line["counter"]
        if counter < furthest.get(life, 0):
            yield f"its guest went back from {furthest[life]} to {counter}"
        if line["event"] == "woken" and (life, counter) in woken:
            yield f"its image at {counter} was used twice"
        if line["event"] == "woken":
            woken.add((life, counter))
        furthest[life] = max(counter, furthest.get(life, 0))


def _counted(history: History) -> Iterator[str]:
    """Faults: boots or wakes without a request; a kill or a failure explains one more."""
    happened = Counter(line["event"] for line in history.journal)
    for op, event in (("StartInstance", "booted"), ("WakeInstance", "woken")):
        done = sum(1 for a in history.asked if a.op == op and a.result.get("changed"))
        failed = sum(1 for a in history.asked if a.op == op and _unexpected(a))
        if not done <= happened[event] <= done + failed + history.kills:
            yield f"{happened[event]} times {event}, by {done} requests"


def _unexpected(asked: Asked) -> bool:
    return asked.result["kind"] == "failed" and asked.result["class"] not in EXPECTED_CLASSES


def by_instance(journals: Iterable[Sequence[Line]]) -> dict[str, list[Line]]:
    """The lines of each instance."""
    found: dict[str, list[Line]] = defaultdict(list)
    for journal in journals:
        for line in journal:
            found[line["instance"]].append(line)
    return found
