"""Tables of text for people: aligned columns, no wider than the terminal."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from typing import Final

import click

GAP: Final = "  "
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def print_table(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> None:
    """Prints a table; the titles are bold on a terminal, and long cells are wrapped there.

    The columns with the titles `right` are aligned to the right.  Elsewhere than on a terminal,
    each row is one line, whose length has no limit.
    """
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    header, *lines = table_lines(titles, rows, right=right, width=width)
    click.echo(click.style(header, bold=True))
    for line in lines:
        click.echo(line)


def table_lines(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    width: int | None = None,
) -> Iterator[str]:
    """The lines of a table, the titles first, within `width` columns if the titles allow it.

    A control character would move the terminal's cursor, so a space replaces it.
    """
    cells = [[_CONTROL.sub(" ", cell) for cell in row] for row in (titles, *rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    if width is not None:
        widths = _narrowed(widths, columns, width - len(GAP) * (len(columns) - 1))
    for row in cells:
        wrapped = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            yield GAP.join(
                part.rjust(size) if title in right else part.ljust(size)
                for title, part, size in zip(titles, parts, widths, strict=True)
            ).rstrip()


def _narrowed(widths: list[int], columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths whose sum is at most `room`: the widest columns give way, titles never do.

    A word, such as an id, is broken only where breaking lines between words is not enough.
    """
    narrow = list(widths)
    words = [max(len(word) for cell in column for word in cell.split(" ")) for column in columns]
    for floors in (words, [len(column[0]) for column in columns]):
        while sum(narrow) > room and (can := [i for i, w in enumerate(narrow) if w > floors[i]]):
            narrow[max(can, key=narrow.__getitem__)] -= 1
    return narrow


def _wrapped(cell: str, width: int) -> list[str]:
    if len(cell) <= width:
        return [cell]
    return textwrap.wrap(cell, width, break_on_hyphens=False)
