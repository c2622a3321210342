"""Waits for the clock after boot: while it is wrong, requests look expired or from the future."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger("hostd")
TRUSTED_S: Final = 60.0  # uptime after which also an unsynchronized clock is used


def await_clock(
    *,
    synchronized: Callable[[], bool],
    uptime_s: Callable[[], float],
    pause: Callable[[float], bool],
) -> bool:
    """Waits for a synchronized clock, at most until a minute after boot.

    `pause` waits that many seconds and returns whether hostd must stop.  Returns whether the
    clock is synchronized.
    """
    if synchronized():
        return True
    if uptime_s() < TRUSTED_S:
        log.info("the clock is not synchronized yet: waiting, at most a minute after boot")
    while uptime_s() < TRUSTED_S and not pause(0.5):
        if synchronized():
            return True
    return False
