"""Just after boot the clock may be far off, and requests would look expired or from the future."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger("hostd")
SETTLED_S: Final = 60.0  # uptime from which on a clock that nobody disciplines is taken as it is


def await_clock(
    *,
    synchronized: Callable[[], bool],
    uptime_s: Callable[[], float],
    pause: Callable[[float], bool],
) -> bool:
    """Waits for a synchronized clock, but not beyond a minute after boot.

    `pause` waits that many seconds and says whether hostd was asked to stop.  Returns whether the
    clock is synchronized.
    """
    if synchronized():
        return True
    if uptime_s() < SETTLED_S:
        log.info("the clock is not synchronized yet: waiting, at most a minute after boot")
    while uptime_s() < SETTLED_S and not pause(0.5):
        if synchronized():
            return True
    return False
