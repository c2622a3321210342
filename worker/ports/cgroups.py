"""The port of control groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from enqueue.requests import InstanceId


@dataclass(frozen=True, slots=True)
class Limits:
    """An instance's limits: memory in bytes, CPU in microseconds per 100 ms, tasks."""

    memory_max_bytes: int
    cpu_quota_us: int
    pids_max: int


class Cgroups(Protocol):
    """One control group an instance, below hostd's parent."""

    def limits(self, instance: InstanceId) -> Limits | None:
        """The limits in force, read back from the kernel; None without a complete group."""

    def put(self, instance: InstanceId, limits: Limits) -> None:
        """The group exists with these limits.

        Raises:
            Broken: `cgroup`, the kernel did not take a limit; facts name the file.
        """

    def join_files(self, instance: InstanceId) -> tuple[Path, ...]:
        """The `cgroup.procs` files that a process writes its pid to, to be in the group."""

    def pids(self, instance: InstanceId) -> frozenset[int]:
        """Members of the group, in hostd's pid namespace; none without a group."""

    def kill(self, instance: InstanceId, *, timeout_s: float) -> None:
        """No process of the group is left.

        Raises:
            Transient: `cgroup_busy`, some outlived the timeout; facts name them.
        """

    def remove(self, instance: InstanceId) -> None:
        """The (empty) group is gone from every hierarchy.

        Raises:
            Transient: `cgroup_busy`, it still has members.
        """

    def instances(self) -> frozenset[InstanceId]:
        """Every instance that has a group in any hierarchy."""
