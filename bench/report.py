"""Prints the figures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.figures import Figure
from enqueue.tables import print_table

TITLES = ("figure", "value", "baseline", "ratio", "target", "")


def show(figures: Sequence[Figure], *, took_s: float, output: Path) -> int:
    """Prints all; the exit code: 1 if a target is missed."""
    print_table(TITLES, [_row(line) for line in figures], right=TITLES[1:5])
    missed = [line for line in figures if not line.ok]
    for line in missed:
        words = f"missed: {line.name}: {line.value:g} {line.unit}, {line.target}"
        click.echo(click.style(words, fg="red"))
    print(f"{len(figures)} figures in {took_s:.0f} s, written to {output}")
    return 1 if missed else 0


def _row(line: Figure) -> tuple[str, ...]:
    return (
        line.name,
        f"{line.value:g} {line.unit}",
        "" if line.baseline is None else f"{line.baseline:g}",
        "" if line.ratio is None else f"{line.ratio:.3g}",
        line.target,
        "" if not line.target else "ok" if line.ok else "missed",
    )
