"""Measured figures, and whether they reach their targets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import msgspec

Samples = Mapping[str, Sequence[Sequence[float]]]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of build/bench.json; `baseline` is in the same unit, `ratio` value / baseline."""

    name: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    target: str
    ok: bool


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of a figure, or of its ratio to the baseline."""

    of: Literal["value", "ratio"]
    relation: Literal["<=", ">="]
    bound: float

    def __str__(self) -> str:
        what = "ratio " if self.of == "ratio" else ""
        return f"{what}{self.relation} {self.bound:g}"

    def met(self, value: float, ratio: float | None) -> bool:
        """Whether it is reached; a missing ratio is a miss."""
        seen = value if self.of == "value" else ratio
        if seen is None:
            return False
        return seen <= self.bound if self.relation == "<=" else seen >= self.bound


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
    target: Target | None = None,
) -> Figure:
    """The figure; one without a target is for information, and `ok`."""
    if ratio is None and baseline:
        ratio = value / baseline
    return Figure(
        name=name,
        value=_rounded(value),
        unit=unit,
        baseline=None if baseline is None else _rounded(baseline),
        ratio=None if ratio is None else _rounded(ratio),
        target="" if target is None else str(target),
        ok=target is None or target.met(value, ratio),
    )


def compared(
    name: str,
    samples: Samples,
    unit: str,
    *,
    subject: str,
    against: str,
    target: Target | None = None,
) -> Figure:
    """The subject's median next to the other's; the ratio is the median of the rounds' ratios."""
    rounds = zip(samples[subject], samples[against], strict=True)
    ratio = median(median(ours) / median(theirs) for ours, theirs in rounds)
    value, baseline = overall(samples[subject]), overall(samples[against])
    return figure(name, value, unit, baseline=baseline, ratio=ratio, target=target)


def overall(rounds: Sequence[Sequence[float]]) -> float:
    """The median of all samples of all rounds."""
    return median(sample for samples in rounds for sample in samples)


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that `percent` per cent of the samples do not exceed."""
    return sorted(samples)[max(0, -(-len(samples) * percent // 100) - 1)]


def in_turns(
    rounds: int, parts: Mapping[str, Callable[[], Sequence[float]]]
) -> dict[str, list[Sequence[float]]]:
    """The samples of each part by round; every other round runs the parts backwards."""
    samples: dict[str, list[Sequence[float]]] = {name: [] for name in parts}
    for number in range(rounds):
        names = list(parts)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            samples[name].append(parts[name]())
    return samples


def timed_ms(action: Callable[[], object]) -> float:
    """The duration of the action, in milliseconds."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
