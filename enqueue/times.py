"""Clocks, and times and durations as text: the one place that reads and writes them.

Times are Unix milliseconds, durations are seconds; text is always UTC.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_DURATION: Final = re.compile(r"\A([0-9]+)([smhd]?)\Z")
_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Clock:
    """Unix time in seconds, and a monotonic clock in seconds."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return int(self.wall() * 1000)


def parse_duration(text: str) -> float:
    """The seconds of `90`, `90s`, `15m`, `2h` or `7d`.

    Raises:
        ValueError: it is none of these.
    """
    if (duration := _DURATION.match(text)) is None:
        raise ValueError(f"{text!r} is not a valid duration (90s, 15m, 2h)")
    return float(int(duration[1]) * _UNIT_S[duration[2]])


def parse_time(text: str) -> int:
    """Unix milliseconds of `2026-11-24`, `2026-11-24T02:30:00Z` (UTC if no zone), or `90m` ago.

    Raises:
        ValueError: it is neither a time nor an age.
    """
    if text[-1:] in _UNIT_S and _DURATION.match(text):
        return int((time.time() - parse_duration(text)) * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a time (2026-11-24T02:30:00Z) nor an age (30s, 90m, 12h, 7d)"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def format_utc(at_ms: float | None) -> str:
    """For people: `2026-01-31 04:00:00`; `-` for no time."""
    return "-" if at_ms is None else _format(at_ms, "%Y-%m-%d %H:%M:%S")


def format_iso(at_ms: float) -> str:
    """For documents: `2026-01-31T04:00:00Z`."""
    return _format(at_ms, "%Y-%m-%dT%H:%M:%SZ")


def format_rq(at_ms: float) -> str:
    """For RQ, as `rq.utils.utcformat` writes it: `2026-01-31T04:00:00.000000Z`."""
    return _format(at_ms, "%Y-%m-%dT%H:%M:%S.%fZ")


def _format(at_ms: float, form: str) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime(form)
