"""An instance's control group, in every hierarchy that tracks or limits it."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from enqueue.requests import INSTANCE_PATTERN, InstanceId
from worker.errors import Broken, Transient
from worker.host.cgroups import limits as cgroup_limits
from worker.host.cgroups.hierarchies import Hierarchies, detect
from worker.host.cgroups.kill import members, signal_all, wait_for_end
from worker.ports import Limits

_RMDIR_TIMEOUT_S: Final = 0.5
_RMDIR_PAUSE_S: Final = 0.002


class KernelCgroups:
    """Implements `worker.ports.Cgroups`: `<mount>/<parent>/<instance>` in each hierarchy.

    Raises:
        Broken: `cgroup`, this machine cannot limit memory, CPU and tasks.
    """

    def __init__(self, parent: str = "hostd", hierarchies: Hierarchies | None = None) -> None:
        self._parent = parent
        self._hierarchies = hierarchies or detect()

    def limits(self, instance: InstanceId) -> Limits | None:
        if not all(directory.is_dir() for directory in self._directories(instance)):
            return None
        values = [
            cgroup_limits.get(directory, controller, v2=v2)
            for controller, directory, v2 in self._controllers(instance)
        ]
        memory, cpu, pids = values
        if memory is None or cpu is None or pids is None:
            return None
        return Limits(memory, cpu, pids)

    def put(self, instance: InstanceId, limits: Limits) -> None:
        """Rounds memory down to pages."""
        self._make(instance)
        values = (limits.memory_max_bytes, limits.cpu_quota_us, limits.pids_max)
        for (controller, directory, v2), value in zip(
            self._controllers(instance), values, strict=True
        ):
            cgroup_limits.put(directory, controller, value, v2=v2)
        memory_bytes = cgroup_limits.rounded(limits.memory_max_bytes)
        wanted = Limits(memory_bytes, limits.cpu_quota_us, limits.pids_max)
        if (found := self.limits(instance)) != wanted:
            raise Broken("cgroup", f"{instance} has other limits than hostd wrote", found=found)

    def join_files(self, instance: InstanceId) -> tuple[Path, ...]:
        """The hierarchy that tracks and kills is first."""
        return tuple(path / "cgroup.procs" for path in self._directories(instance))

    def pids(self, instance: InstanceId) -> frozenset[int]:
        """A process that has joined one hierarchy is a member."""
        return members(self._directories(instance))

    def kill(self, instance: InstanceId, *, timeout_s: float) -> None:
        directories = self._directories(instance)
        deadline = time.monotonic() + timeout_s
        while members(directories):
            # Repeated: a process may have forked since members were read.
            signal_all(directories)
            wait_for_end(directories, until=deadline)
            if time.monotonic() >= deadline and (left := members(directories)):
                raise _busy(instance, left)

    def remove(self, instance: InstanceId) -> None:
        directories = self._directories(instance)
        if left := members(directories):
            raise _busy(instance, left)
        deadline = time.monotonic() + _RMDIR_TIMEOUT_S
        # Limits go before the group that tracks, so that what is left is always found by it.
        for directory in reversed(directories):
            while not _removed(directory):
                if time.monotonic() >= deadline:
                    raise _busy(instance, members(directories))
                time.sleep(_RMDIR_PAUSE_S)

    def instances(self) -> frozenset[InstanceId]:
        return frozenset(
            InstanceId(name)
            for mount in self._hierarchies.mounts()
            for name in _children(mount / self._parent)
            if re.match(INSTANCE_PATTERN, name)
        )

    def _directories(self, instance: InstanceId) -> tuple[Path, ...]:
        mounts = self._hierarchies.mounts()
        return tuple(mount / self._parent / instance for mount in mounts)

    def _controllers(self, instance: InstanceId) -> Iterator[tuple[str, Path, bool]]:
        """(controller, its directory of the group, whether it is v2's) in the order of Limits."""
        leaf = Path(self._parent) / instance
        v1, v2 = self._hierarchies.v1, self._hierarchies.v2
        for controller in ("memory", "cpu", "pids"):
            if controller in v1:
                yield controller, v1[controller] / leaf, False
            elif v2 is not None:
                yield controller, v2 / leaf, True

    def _make(self, instance: InstanceId) -> None:
        v2 = self._hierarchies.v2
        for directory in self._directories(instance):
            try:
                directory.parent.mkdir(parents=True, exist_ok=True)
                if v2 is not None and v2 in directory.parents:
                    enable(v2, self._parent, self._hierarchies.in_v2)
                directory.mkdir(exist_ok=True)
            except OSError as error:
                raise cgroup_limits.refused(directory, "mkdir", error) from error


def enable(mount: Path, parent: str, controllers: tuple[str, ...]) -> None:
    """The v2 controllers limit children of `parent`, and of every group above it.

    Raises:
        Broken: `cgroup`, a group on the way has processes of its own, or the kernel refused.
    """
    group = mount
    for part in ("", *Path(parent).parts):
        group = group / part
        file = group / "cgroup.subtree_control"
        missing = set(controllers) - set((cgroup_limits.read(file) or "").split())
        for controller in sorted(missing):
            _enable(file, f"+{controller}")


def _enable(file: Path, text: str) -> None:
    try:
        cgroup_limits.write(file, text)
    except Broken as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno != errno.EBUSY:
            raise
        # A v2 group has processes or limits children, never both (cgroup-v2.rst).
        raise Broken(
            "cgroup",
            f"{file.parent} has processes of its own, so its children cannot be limited",
            hint="run hostd in a sub-group: Delegate=yes and KillMode=process in its unit, "
            "or set [cgroup] parent to a group without processes",
            file=file,
        ) from cause


def _removed(directory: Path) -> bool:
    """Whether the group is gone; EBUSY also comes just after its last process was killed."""
    try:
        directory.rmdir()
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise cgroup_limits.refused(directory, "rmdir", error) from error
    return True


def _children(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []


def _busy(instance: InstanceId, pids: frozenset[int]) -> Transient:
    return Transient(
        "cgroup_busy",
        f"the control group of {instance} still has processes",
        hint="a process in state D waits for a device: read /proc/<pid>/stack",
        pids=sorted(pids),
    )
