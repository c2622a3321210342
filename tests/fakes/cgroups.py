"""Control groups in memory; their processes are numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from enqueue.requests import InstanceId
from worker.errors import Transient
from worker.ports import Limits

PAGE_BYTES = 4096


@dataclass
class Group:
    """One group: limits are None while it is half-built."""

    limits: Limits | None = None
    pids: set[int] = field(default_factory=set)


class FakeCgroups:
    """Implements `worker.ports.Cgroups`.  Pids in `unkillable` outlive any signal."""

    def __init__(self) -> None:
        self.groups: dict[InstanceId, Group] = {}
        self.unkillable: set[int] = set()
        self._next_pids = count(7_000)

    def enter(self, instance: InstanceId) -> int:
        """The pid of a new process in the group."""
        pid = next(self._next_pids)
        self.groups[instance].pids.add(pid)
        return pid

    def limits(self, instance: InstanceId) -> Limits | None:
        group = self.groups.get(instance)
        return None if group is None else group.limits

    def put(self, instance: InstanceId, limits: Limits) -> None:
        memory = limits.memory_max_bytes - limits.memory_max_bytes % PAGE_BYTES
        group = self.groups.setdefault(instance, Group())
        group.limits = Limits(memory, limits.cpu_quota_us, limits.pids_max)

    def join_files(self, instance: InstanceId) -> tuple[Path, ...]:
        return (Path("/nowhere/hostd") / instance / "cgroup.procs",)

    def pids(self, instance: InstanceId) -> frozenset[int]:
        group = self.groups.get(instance)
        return frozenset() if group is None else frozenset(group.pids)

    def kill(self, instance: InstanceId, *, timeout_s: float) -> None:
        if instance in self.groups:
            self.groups[instance].pids &= self.unkillable
        self._empty(instance)

    def remove(self, instance: InstanceId) -> None:
        self._empty(instance)
        self.groups.pop(instance, None)

    def instances(self) -> frozenset[InstanceId]:
        return frozenset(self.groups)

    def _empty(self, instance: InstanceId) -> None:
        if left := self.pids(instance):
            raise Transient("cgroup_busy", f"{instance} has processes", pids=sorted(left))
