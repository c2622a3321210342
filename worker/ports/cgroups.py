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
    """One control group per instance, below hostd's parent group."""

    def limits(self, instance: InstanceId) -> Limits | None:
        """The limits in force, read from the kernel; None without a complete group."""

    def put(self, instance: InstanceId, limits: Limits) -> None:
        """Makes the group, with these limits.

        Raises:
            Broken: `cgroup`, the kernel refused a limit; facts name the file.
        """

    def join_files(self, instance: InstanceId) -> tuple[Path, ...]:
        """The `cgroup.procs` files to which a process writes its pid to join the group."""

    def pids(self, instance: InstanceId) -> frozenset[int]:
        """Members of the group, in hostd's pid namespace; empty without a group."""

    def kill(self, instance: InstanceId, *, timeout_s: float) -> None:
        """Kills every process of the group and waits until they ended.

        Raises:
            Transient: `cgroup_busy`, some still run after the timeout; facts name them.
        """

    def remove(self, instance: InstanceId) -> None:
        """Removes the (empty) group from every hierarchy.

        Raises:
            Transient: `cgroup_busy`, it still has members.
        """

    def instances(self) -> frozenset[InstanceId]:
        """Every instance that has a group in any hierarchy."""
