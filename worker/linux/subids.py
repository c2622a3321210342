"""Uid and gid ranges that jails must not use: user `nobody`, and those in /etc/subuid and subgid.

A process with a uid of such a range can be reached by the user that the range is assigned to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUBORDINATE_FILES: Final = (Path("/etc/subuid"), Path("/etc/subgid"))


@dataclass(frozen=True, slots=True)
class IdRange:
    """The ids from `first` to `last`; `owner` says who uses them."""

    first: int
    last: int
    owner: str

    def __str__(self) -> str:
        return f"{self.first}..{self.last}, {self.owner}"


# Used even if no file says so yet: useradd may assign the default range at any time.
ALWAYS: Final = (
    IdRange(65_534, 65_535, "nobody"),
    IdRange(100_000, 165_535, "the first range that useradd assigns (login.defs(5))"),
)


def first_overlap(first: int, last: int, files: Sequence[Path]) -> IdRange | None:
    """The first such range that overlaps the ids from `first` to `last`; None without one.

    Reads the files each time: a user may have been assigned a range since.

    Raises:
        OSError: a file exists, but cannot be read.
    """
    for used in (*(each for file in files for each in subid_ranges(file)), *ALWAYS):
        if first <= used.last and last >= used.first:
            return used
    return None


def subid_ranges(file: Path) -> Iterator[IdRange]:
    """The ranges in a file of subuid(5) or subgid(5); empty without the file.

    Lines that are not `name:first:count` are ignored, as by newuidmap(1).
    """
    try:
        text = file.read_text(errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        name, *numbers = line.split(":")
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            first, count = map(int, numbers)
            if count:
                yield IdRange(first, first + count - 1, f"{name}'s by {file}")
