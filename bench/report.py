"""Prints the figures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.figures import Figure


def show(figures: Sequence[Figure], console: Console, *, took_s: float, output: Path) -> int:
    """Prints all; the exit code: 1 if a target is missed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure", overflow="fold")
    for heading in ("value", "baseline", "ratio", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for line in figures:
        table.add_row(
            line.name,
            f"{line.value:g} {line.unit}",
            "" if line.baseline is None else f"{line.baseline:g}",
            "" if line.ratio is None else f"{line.ratio:.3g}",
            line.target,
            _verdict(line),
        )
    console.print(table)
    missed = [line for line in figures if not line.ok]
    for line in missed:
        console.print(
            Text(f"missed: {line.name}: {line.value:g} {line.unit}, {line.target}", "red")
        )
    console.print(f"{len(figures)} figures in {took_s:.0f} s, written to {output}")
    return 1 if missed else 0


def _verdict(line: Figure) -> Text:
    if not line.target:
        return Text("")
    return Text("ok", "green") if line.ok else Text("missed", "bold red")
