"""Times as an operator writes them."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime
from typing import Final

_AGO: Final = re.compile(r"\A(\d+)([smhd])\Z")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ms(text: str) -> int:
    """Unix milliseconds of `2026-11-24`, `2026-11-24T02:30:00Z` (UTC if no zone), or `90m` ago.

    Raises:
        argparse.ArgumentTypeError: it is none of these.
    """
    if (ago := _AGO.match(text)) is not None:
        return int((time.time() - int(ago[1]) * _UNIT_S[ago[2]]) * 1000)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time (2026-11-24T02:30:00Z) nor an age (30s, 90m, 12h, 7d)"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
