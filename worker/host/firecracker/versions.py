"""Differences between Firecracker's versions that concern a guest's agent and clock.

From Firecracker's CHANGELOG.md: 1.16.0 reworked the vsock device's reset (#5882) and added
`clock_realtime` for x86_64; 1.16.1 repaired vsock after a restore (#5958); the version after 1.16.1
repaired it after a pause and resume without a snapshot between them (#6100).
"""

from __future__ import annotations

import re


def vsock_survives_restore(version: str) -> bool:
    """Whether the host can connect to a guest that was loaded from a snapshot."""
    return _numbers(version) != (1, 16, 0)


def vsock_survives_bare_resume(version: str) -> bool:
    """Whether the host can connect to a guest that was paused and resumed without a snapshot.

    In versions that cannot, each connection from the host hangs as long as the VMM lives.
    """
    return _numbers(version) not in ((1, 16, 0), (1, 16, 1))


def has_clock_realtime(version: str, machine: str) -> bool:
    """Whether a load can advance the guest's clock; `machine` as in uname(2)."""
    return machine == "x86_64" and _numbers(version) >= (1, 16, 0)


def _numbers(version: str) -> tuple[int, ...]:
    """`(1, 17, 0)` for `1.17.0-dev`; `()` if it is not a version."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    return tuple(map(int, found.groups())) if found else ()
