"""The tables of docs/faults.md, from what was seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from enqueue.results import Done, Failed, Result

API: Final = "api"
DISK: Final = "disk"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault, and what became of the request and of the guest."""

    kind: str
    operation: str
    place: str
    fault: str
    outcome: str


def outcome(result: Result, guest: str) -> str:
    """A cell: how the request ended, and the guest."""
    match result:
        case Done():
            return f"done; {guest}"
        case Failed():
            return f"`{result.code}`; {guest}"
        case _:
            raise AssertionError(f"no typed result: {result}")


def rendered(rows: Sequence[Row]) -> str:
    """For each request a table of the API's faults, and one of the disk's."""
    return "\n".join((*_api([r for r in rows if r.kind == API]),
                      *_disk([r for r in rows if r.kind == DISK]))) + "\n"  # fmt: skip


def _api(rows: Sequence[Row]) -> Iterator[str]:
    for operation in dict.fromkeys(row.operation for row in rows):
        mine = [row for row in rows if row.operation == operation]
        cells = {(row.place, row.fault): row.outcome for row in mine}
        places = list(dict.fromkeys(row.place for row in mine))
        columns = _columns(places, list(dict.fromkeys(row.fault for row in mine)), cells)
        yield f"## The VMM's API, during {operation}\n"
        yield "| call | " + " | ".join(columns.values()) + " |"
        yield "|---" * (len(columns) + 1) + "|"
        for number, place in enumerate(places):
            yield f"| `{place}` | " + " | ".join(column[number] for column in columns) + " |"
        yield ""


def _columns(
    places: Sequence[str], faults: Sequence[str], cells: Mapping[tuple[str, str], str]
) -> dict[tuple[str, ...], str]:
    """The title of each column; faults that always come to the same share one."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for fault in faults:
        column = tuple(cells.get((place, fault), "") for place in places)
        titles.setdefault(column, []).append(fault)
    return {column: ", ".join(shared) for column, shared in titles.items()}


def _disk(rows: Sequence[Row]) -> Iterator[str]:
    for operation in dict.fromkeys(row.operation for row in rows):
        places: dict[tuple[str, str], list[str]] = {}
        for row in (row for row in rows if row.operation == operation):
            places.setdefault((row.fault, row.outcome), []).append(f"`{row.place}`")
        yield f"## hostd's own disk, during {operation}\n"
        yield "| fault | outcome | where |\n|---|---|---|"
        for (fault, said), where in places.items():
            yield f"| {fault} | {said} | {', '.join(where)} |"
        yield ""
