"""What a request can wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.scheduling.turns import Key


@dataclass(frozen=True, slots=True)
class ReplyNow:
    """The answering thread: for what needs no turn, a Ping or a result that stands already."""


@dataclass(frozen=True, slots=True)
class Turn:
    """No earlier unfinished request holds one of these keys; kept until the request ends.

    `subject` says to others what waits.  Asked for again, it begins anew, behind all others.
    `interrupted`: a kill has left it between two states, and it should not be kept there.
    """

    keys: Mapping[Key, bool]
    subject: object = None
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """A time on the monotonic clock, in seconds; the turn is kept."""

    due_s: float


@dataclass(frozen=True, slots=True)
class ReleaseKeys:
    """No time at all: these keys of its turn are given up, and the story goes on."""

    keys: tuple[Key, ...]


Wait = ReplyNow | Turn | Backoff | ReleaseKeys
