"""Points in time as people give them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str) -> str:
    """A point in time as RQ writes it (UTC), given as such or as how long ago: `90m`, `12h`, `3d`.

    Raises:
        ValueError: it is neither.
    """
    if text[:-1].isdecimal() and text[-1] in _SECONDS:
        then = datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _SECONDS[text[-1]])
    else:
        try:
            then = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{text!r} is no time: give one as 2026-01-31T04:00:00Z, or an age as 90m, 12h, 3d"
            ) from None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return then.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
