"""How commands print: a table for people, a JSON document a line for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from enqueue.tables import print_table


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
    if not rows:
        print("nothing on record")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    right = [name for name in columns if _are_numbers(row.get(name) for row in rows)]
    print_table(columns, cells, right=right)


def show_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """One document: a line for each key and for each item of a list, or one of JSON."""
    if as_json:
        print_json([facts])
        return
    width = max(map(len, facts), default=0)
    for key, value in facts.items():
        for line in value if isinstance(value, list | tuple) else [value]:
            print(f"{key:<{width}}  {_cell(line)}")


def _are_numbers(values: Iterable[object]) -> bool:
    kinds = {type(value) for value in values} - {type(None)}
    return bool(kinds) and kinds <= {int, float}


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
