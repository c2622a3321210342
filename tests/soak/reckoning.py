"""What a soak comes to: from the clients' logs, the killer's, the VMMs' journals, and the machine.

Never from hostd's ledger: that is what is on trial.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.soak.logs import Line
from tests.soak.order import Asked, Possible, led

EXPECTED_CLASSES = ("conflict",)


@dataclass
class Story:
    """What is known of one instance: what was asked of it, its journal, and how it stands."""

    asked: list[Asked] = field(default_factory=list)
    journal: list[Line] = field(default_factory=list)
    kills: int = 0
    status: str = ""
    lives: bool = False


@dataclass
class Reckoning:
    """The sums; each fault is in words."""

    acknowledged: int = 0
    told: int = 0
    lost: list[str] = field(default_factory=list)
    double: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def faults(self) -> list[str]:
        """All of them."""
        return [*self.lost, *self.double, *self.disorder, *self.leaks]


def reckon(clients: Iterable[Sequence[Line]], stories: Mapping[str, Story]) -> Reckoning:
    """The sums of these logs; `stories` has journal, kills and state of each instance."""
    sums = Reckoning()
    for log in clients:
        _client(log, stories, sums)
    for instance, story in stories.items():
        said = [f"{instance}: {fault}" for fault in _order(story)]
        sums.disorder += said
        sums.double += [f"{instance}: {fault}" for fault in (*_once(story), *_counted(story))]
    return sums


def _client(log: Sequence[Line], stories: Mapping[str, Story], sums: Reckoning) -> None:
    results = {line["id"]: line["result"] for line in log if line["event"] == "told"}
    sent = [line for line in log if line["event"] == "sent"]
    acknowledged = {line["id"] for line in log if line["event"] == "acknowledged"}
    sums.acknowledged += len(acknowledged)
    sums.told += len(results)
    for line in sent:
        result = results.get(line["id"])
        if result is None:
            sums.lost += [f"{line['op']} {line['id']} of {line['instance']} was never answered"]
            continue
        sums.answers[f"{line['op']} {result.get('code') or result['kind']}"] += 1
        stories[line["instance"]].asked.append(Asked(line["id"], line["op"], result))


def _order(story: Story) -> Iterator[str]:
    possible, fault = led(story.asked, story.kills)
    if fault is not None:
        yield fault
    elif story.status not in _statuses(possible):
        yield f"it is {story.status}, its answers leave {sorted(_statuses(possible))}"
    if story.lives != (story.status == "running"):
        yield f"it is {story.status}, and a VMM {'lives' if story.lives else 'does not live'}"


def _statuses(possible: Iterable[Possible]) -> set[str]:
    states = {p.state for p in possible}
    return states | ({"created"} if "stopped" in states else set())


def _once(story: Story) -> Iterator[str]:
    """No two VMMs at once, no image used twice, no counter that goes back."""
    furthest: dict[str, int] = {}
    woken: set[tuple[str, int]] = set()
    for line in story.journal:
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


def _counted(story: Story) -> Iterator[str]:
    """As many boots and wakes as requests have done; a kill or a failure may explain one more."""
    happened = Counter(line["event"] for line in story.journal)
    for op, event in (("StartInstance", "booted"), ("WakeInstance", "woken")):
        done = sum(1 for a in story.asked if a.op == op and a.result.get("changed"))
        failed = sum(1 for a in story.asked if a.op == op and _unexpected(a))
        if not done <= happened[event] <= done + failed + story.kills:
            yield f"{happened[event]} times {event}, {done} requests had it done"


def _unexpected(asked: Asked) -> bool:
    return asked.result["kind"] == "failed" and asked.result["class"] not in EXPECTED_CLASSES


def by_instance(journals: Iterable[Sequence[Line]]) -> dict[str, list[Line]]:
    """The lines of each instance."""
    found: dict[str, list[Line]] = defaultdict(list)
    for journal in journals:
        for line in journal:
            found[line["instance"]].append(line)
    return found
