"""Which uids and gids are other people's: nobody's, and those that user namespaces are given.

A jail whose uid fell into such a range could be reached by the user whom the range was given to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUBORDINATE_FILES: Final = (Path("/etc/subuid"), Path("/etc/subgid"))


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids from `first` to `last` are `whose`."""

    first: int
    last: int
    whose: str

    def __str__(self) -> str:
        return f"{self.first}..{self.last}, {self.whose}"


# Taken even where no file says so yet: useradd may give the default range out at any time.
ALWAYS: Final = (
    IdRange(65_534, 65_535, "nobody"),
    IdRange(100_000, 165_535, "the first range that useradd gives out (login.defs(5))"),
)


def first_overlap(first: int, last: int, files: Sequence[Path]) -> IdRange | None:
    """The first range of others that the ids from `first` to `last` meet; None if there is none.

    The files are read now: a user may have been given a range since the last look.

    Raises:
        OSError: a file is there, but cannot be read.
    """
    for taken in (*(each for file in files for each in subid_ranges(file)), *ALWAYS):
        if first <= taken.last and last >= taken.first:
            return taken
    return None


def subid_ranges(file: Path) -> Iterator[IdRange]:
    """The ranges in a file of subuid(5) or subgid(5); none if there is no file.

    Lines that are no `name:first:count` give nothing out, as for newuidmap(1).
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
