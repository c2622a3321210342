"""How much is measured: the full run takes some minutes, the quick one less than one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Numbers of rounds, of samples per round and of jobs."""

    rounds: int = 5
    pings: int = 60
    backlog_rounds: int = 3
    backlog: int = 1000
    bunches: int = 15
    networks: int = 30
    instances: int = 9
    launches: int = 40
    starts: int = 5
    rest_s: float = 20.0


FULL = Scale()
QUICK = Scale(
    rounds=2, pings=30, backlog_rounds=1, backlog=400, bunches=5, networks=9, instances=4,
    launches=8, starts=3, rest_s=4.0,
)  # fmt: skip
