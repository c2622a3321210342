"""What a request can wait for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from worker.scheduling.turns import Key


@dataclass(frozen=True, slots=True)
class ReplyNow:
    """Waits for the answering thread: for requests that need no turn, such as Ping or a replay."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Waits until no earlier unfinished request holds one of these keys; then holds them itself.

    `in_flight` identifies the waiting request.  Yielding a Turn again puts the story at the end of
    the queue.  `interrupted`: an earlier attempt was killed midway, so a drain must not delay it.
    """

    keys: Mapping[Key, bool]
    in_flight: object = None
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits until a time on the monotonic clock, in seconds; the turn is kept."""

    due_s: float


@dataclass(frozen=True, slots=True)
class ReleaseKeys:
    """Releases these keys of the story's turn and continues at once."""

    keys: tuple[Key, ...]


Wait = ReplyNow | Turn | Backoff | ReleaseKeys
