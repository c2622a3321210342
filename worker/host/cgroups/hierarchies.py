"""Which control group hierarchies this machine has: v2, v1, or limits in v1 beside a bare v2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.linux.mounts import unescaped

LIMITED: Final[tuple[str, ...]] = ("memory", "cpu", "pids")


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Mount points: of v2 if there is one, and of the v1 hierarchies that limits need.

    `v1` maps a controller to its mount; one that is missing there is v2's.  `freezer` is v1's.
    """

    v2: Path | None
    v1: dict[str, Path]
    freezer: Path | None

    @property
    def in_v2(self) -> tuple[str, ...]:
        """The controllers that limit in v2."""
        return tuple(name for name in LIMITED if name not in self.v1)

    def mounts(self) -> tuple[Path, ...]:
        """Every hierarchy that a group has a directory in; the one that tracks comes first."""
        tracking = self.v2 or self.freezer
        first = () if tracking is None else (tracking,)
        return tuple(dict.fromkeys((*first, *self.v1.values())))


def detect(mountinfo: Path = Path("/proc/self/mountinfo")) -> Hierarchies:
    """The hierarchies that are mounted.

    Raises:
        Broken: `cgroup`, no hierarchy limits one of memory, CPU and tasks.
    """
    v2: Path | None = None
    v1: dict[str, Path] = {}
    for line in mountinfo.read_text().splitlines():
        # proc_pid_mountinfo(5): the optional fields end with a lone dash.
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")
        point = Path(unescaped(before.split(" ")[4]))
        if kind == "cgroup2":
            v2 = v2 or point
        elif kind == "cgroup":
            for name in options.split(","):
                v1.setdefault(name, point)
    return _complete(v2, v1)


def _complete(v2: Path | None, v1: dict[str, Path]) -> Hierarchies:
    available = (v2 / "cgroup.controllers").read_text().split() if v2 else []
    # The kernel gives a controller to one hierarchy at a time (cgroups(7)).
    limited = {name: v1[name] for name in LIMITED if name in v1 and name not in available}
    missing = [name for name in LIMITED if name not in limited and name not in available]
    if missing:
        raise Broken(
            "cgroup",
            f"no control group hierarchy has {', '.join(missing)}",
            hint="mount cgroup2 on /sys/fs/cgroup, with these controllers enabled",
        )
    return Hierarchies(v2=v2, v1=limited, freezer=v1.get("freezer"))
