"""How commands print: a table for people, a JSON document a line for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec


def print_json(documents: Iterable[Any]) -> None:
    """Prints each document as a line; stops if the reader, such as `head`, has closed the pipe."""
    try:
        for document in documents:
            sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout again at exit, and would fail again (its documentation, "signal").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def show(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Rows as a table whose columns are the rows' keys, or as a JSON document a line."""
    if as_json:
        print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console(highlight=False).print(table if rows else "nothing on record")


def show_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """One document: a line for each key and for each item of a list, or one of JSON."""
    if as_json:
        print_json([facts])
        return
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        for line in value if isinstance(value, list | tuple) else [value]:
            print(f"{key:<{width}}  {_cell(line)}")


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{key} {_cell(one)}" for key, one in value.items()) or "-"
        case _:
            return str(value)
