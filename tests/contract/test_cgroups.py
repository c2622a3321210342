"""What every `Cgroups` promises; then what only a kernel can show."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from enqueue.requests import InstanceId
from tests.fakes.cgroups import FakeCgroups
from tests.fixtures.host_resources import Sleeper, until
from worker.errors import Broken, Transient
from worker.host.cgroups import limits as cgroup_limits
from worker.host.cgroups.cgroups import KernelCgroups, enable
from worker.host.cgroups.hierarchies import Hierarchies, detect
from worker.ports import Cgroups, Limits

ONE = InstanceId("i-1a2b3c4d")
OTHER = InstanceId("i-00000002")
MIB = 1 << 20
LIMITS = Limits(memory_max_bytes=96 * MIB, cpu_quota_us=200_000, pids_max=34)
SMALLER = Limits(memory_max_bytes=48 * MIB, cpu_quota_us=100_000, pids_max=33)


class World(Protocol):
    """A subject, and processes to put into its groups."""

    @property
    def cgroups(self) -> Cgroups: ...
    def enter(self, instance: InstanceId) -> int: ...
    def lose_a_limit(self, instance: InstanceId) -> None: ...


class Memory:
    def __init__(self) -> None:
        self.cgroups = FakeCgroups()

    def enter(self, instance: InstanceId) -> int:
        return self.cgroups.enter(instance)

    def lose_a_limit(self, instance: InstanceId) -> None:
        self.cgroups.groups[instance].limits = None


@dataclass
class Kernel:
    cgroups: KernelCgroups
    sleeper: Sleeper

    def start(self, instance: InstanceId) -> subprocess.Popen[bytes]:
        process = self.sleeper()
        for file in self.cgroups.join_files(instance):
            file.write_text(str(process.pid))
        return process

    def enter(self, instance: InstanceId) -> int:
        return self.start(instance).pid

    def lose_a_limit(self, instance: InstanceId) -> None:
        for file in self.cgroups.join_files(instance):
            if (pids_max := file.with_name("pids.max")).exists():
                pids_max.write_text("max")


@pytest.fixture
def kernel(hierarchies: Hierarchies, cgroup_parent: str, sleeper: Sleeper) -> Kernel:
    return Kernel(KernelCgroups(cgroup_parent, hierarchies), sleeper)


@pytest.fixture
def old_kernel(v1_only: Hierarchies, cgroup_parent: str, sleeper: Sleeper) -> Kernel:
    return Kernel(KernelCgroups(cgroup_parent, v1_only), sleeper)


@pytest.fixture(
    params=[
        "fake",
        pytest.param("kernel", marks=pytest.mark.root),
        pytest.param("old_kernel", marks=pytest.mark.root),
    ]
)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield Memory()
    else:
        yield request.getfixturevalue(request.param)


def test_an_unknown_group_has_no_limits_and_no_members(world: World) -> None:
    assert world.cgroups.limits(ONE) is None
    assert world.cgroups.pids(ONE) == frozenset()
    assert world.cgroups.instances() == frozenset()


def test_limits_are_read_back_as_they_were_put(world: World) -> None:
    world.cgroups.put(ONE, LIMITS)
    assert world.cgroups.limits(ONE) == LIMITS
    assert world.cgroups.instances() == {ONE}


def test_limits_can_be_lowered_and_raised(world: World) -> None:
    for limits in (LIMITS, SMALLER, LIMITS, LIMITS):
        world.cgroups.put(ONE, limits)
        assert world.cgroups.limits(ONE) == limits


def test_memory_is_rounded_down_to_pages(world: World) -> None:
    world.cgroups.put(ONE, Limits(96 * MIB + 1, 100_000, 33))
    assert world.cgroups.limits(ONE) == Limits(96 * MIB, 100_000, 33)


def test_a_group_that_lacks_a_limit_is_incomplete_until_put_again(world: World) -> None:
    world.cgroups.put(ONE, LIMITS)
    world.lose_a_limit(ONE)
    assert world.cgroups.limits(ONE) is None
    assert world.cgroups.instances() == {ONE}
    world.cgroups.put(ONE, LIMITS)
    assert world.cgroups.limits(ONE) == LIMITS


def test_a_member_is_listed_in_its_own_group_only(world: World) -> None:
    world.cgroups.put(ONE, LIMITS)
    world.cgroups.put(OTHER, LIMITS)
    pid = world.enter(ONE)
    assert world.cgroups.pids(ONE) == {pid}
    assert world.cgroups.pids(OTHER) == frozenset()


def test_killing_ends_every_member_and_spares_the_neighbour(world: World) -> None:
    world.cgroups.put(ONE, LIMITS)
    world.cgroups.put(OTHER, LIMITS)
    for _ in range(3):
        world.enter(ONE)
    neighbour = world.enter(OTHER)
    world.cgroups.kill(ONE, timeout_s=10)
    assert world.cgroups.pids(ONE) == frozenset()
    assert world.cgroups.pids(OTHER) == {neighbour}
    assert world.cgroups.limits(ONE) == LIMITS


def test_killing_an_empty_or_unknown_group_is_nothing(world: World) -> None:
    world.cgroups.kill(OTHER, timeout_s=1)
    world.cgroups.put(ONE, LIMITS)
    world.cgroups.kill(ONE, timeout_s=1)
    assert world.cgroups.limits(ONE) == LIMITS


def test_a_group_with_members_is_not_removed(world: World) -> None:
    world.cgroups.put(ONE, LIMITS)
    pid = world.enter(ONE)
    with pytest.raises(Transient) as refused:
        world.cgroups.remove(ONE)
    assert refused.value.code == "transient/cgroup_busy"
    assert refused.value.facts["pids"] == [pid]
    assert world.cgroups.limits(ONE) == LIMITS


def test_a_killed_group_can_be_removed_at_once_and_made_again(world: World) -> None:
    for _ in range(5):
        world.cgroups.put(ONE, LIMITS)
        world.enter(ONE)
        world.cgroups.kill(ONE, timeout_s=10)
        world.cgroups.remove(ONE)
        assert world.cgroups.instances() == frozenset()
        assert world.cgroups.limits(ONE) is None


def test_removing_what_is_gone_is_nothing(world: World) -> None:
    world.cgroups.remove(ONE)
    assert world.cgroups.instances() == frozenset()


# ------------------------------------------------------------------ only a kernel can show


@pytest.fixture(params=["kernel", "old_kernel"])
def real(request: pytest.FixtureRequest) -> Kernel:
    world: Kernel = request.getfixturevalue(request.param)
    return world


@pytest.mark.root
def test_killed_members_died_of_sigkill(real: Kernel) -> None:
    real.cgroups.put(ONE, LIMITS)
    processes = [real.start(ONE) for _ in range(3)]
    real.cgroups.kill(ONE, timeout_s=10)
    assert [process.wait(10) for process in processes] == [-9, -9, -9]


@pytest.mark.root
def test_a_process_that_joined_only_one_hierarchy_is_a_member_and_is_killed(real: Kernel) -> None:
    real.cgroups.put(ONE, LIMITS)
    strays = []
    for file in real.cgroups.join_files(ONE):
        strays.append(real.sleeper())
        file.write_text(str(strays[-1].pid))
    assert real.cgroups.pids(ONE) == {stray.pid for stray in strays}
    real.cgroups.kill(ONE, timeout_s=10)
    assert {stray.wait(10) for stray in strays} == {-9}
    real.cgroups.remove(ONE)


@pytest.mark.root
def test_all_processes_of_a_group_that_keeps_forking_are_killed(real: Kernel) -> None:
    real.cgroups.put(ONE, LIMITS)
    joins = "".join(
        f"open({str(file)!r}, 'w').write('0');" for file in real.cgroups.join_files(ONE)
    )
    bomb = "while True:\n try: os.fork()\n except OSError: pass"  # up to the limit on tasks
    program = f"import os\n{joins}\nprint('in', flush=True)\n{bomb}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as forker:
        assert forker.stdout is not None
        assert forker.stdout.readline() == b"in\n"
        real.cgroups.kill(ONE, timeout_s=10)
        assert forker.wait(10) == -9
    assert real.cgroups.pids(ONE) == frozenset()
    real.cgroups.remove(ONE)


@pytest.mark.root
def test_a_member_that_outlives_the_timeout_is_named_and_killed_later(
    kernel: Kernel, hierarchies: Hierarchies, cgroup_parent: str
) -> None:
    if hierarchies.freezer is None or hierarchies.freezer in hierarchies.mounts():
        pytest.skip("needs a v1 freezer that is not hostd's own")
    kernel.cgroups.put(ONE, LIMITS)
    process = kernel.start(ONE)
    frozen = hierarchies.freezer / cgroup_parent  # even SIGKILL waits for the thaw
    frozen.mkdir()
    (frozen / "cgroup.procs").write_text(str(process.pid))
    (frozen / "freezer.state").write_text("FROZEN")
    assert until(lambda: (frozen / "freezer.state").read_text() == "FROZEN\n")
    with pytest.raises(Transient) as refused:
        kernel.cgroups.kill(ONE, timeout_s=0.1)
    assert refused.value.code == "transient/cgroup_busy"
    assert refused.value.facts["pids"] == [process.pid]
    (frozen / "freezer.state").write_text("THAWED")
    kernel.cgroups.kill(ONE, timeout_s=10)
    assert process.wait(10) == -9


@pytest.mark.root
def test_a_group_with_one_hierarchy_missing_has_no_limits_and_is_still_found(real: Kernel) -> None:
    for missing in range(len(real.cgroups.join_files(ONE))):
        real.cgroups.put(ONE, LIMITS)
        real.cgroups.join_files(ONE)[missing].parent.rmdir()
        assert real.cgroups.limits(ONE) is None
        assert real.cgroups.instances() == {ONE}
    real.cgroups.remove(ONE)
    assert real.cgroups.instances() == frozenset()


@pytest.mark.root
def test_memory_beyond_the_limit_kills_only_that_member(real: Kernel) -> None:
    real.cgroups.put(ONE, Limits(16 * MIB, 100_000, 33))
    joins = "".join(
        f"open({str(file)!r}, 'w').write('0');" for file in real.cgroups.join_files(ONE)
    )
    done = subprocess.run([sys.executable, "-c", f"{joins} bytearray(64 << 20)"], check=False)
    assert done.returncode == -9


@pytest.mark.root
def test_tasks_beyond_the_limit_cannot_be_made(real: Kernel) -> None:
    real.cgroups.put(ONE, Limits(64 * MIB, 100_000, 1))
    joins = "".join(
        f"open({str(file)!r}, 'w').write('0');" for file in real.cgroups.join_files(ONE)
    )
    program = f"import os, errno\n{joins}\ntry: os.fork()\nexcept OSError as e: exit(e.errno)"
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 11  # EAGAIN


@pytest.mark.root
def test_a_limit_that_the_kernel_refuses_is_named_with_its_file(real: Kernel) -> None:
    with pytest.raises(Broken) as refused:
        real.cgroups.put(ONE, Limits(64 * MIB, 1, 33))  # the least quota is 1 ms
    assert refused.value.code == "broken/cgroup"
    assert "cpu" in str(refused.value.facts["file"])
    assert real.cgroups.limits(ONE) is None


@pytest.mark.root
def test_groups_of_many_instances_can_be_made_and_removed_at_the_same_time(real: Kernel) -> None:
    faults: list[BaseException] = []

    def live(number: int) -> None:
        instance = InstanceId(f"i-{number:08x}")
        try:
            for _ in range(5):
                real.cgroups.put(instance, LIMITS)
                assert real.cgroups.limits(instance) == LIMITS
                real.cgroups.remove(instance)
        except BaseException as error:  # noqa: BLE001 - carried to the test's thread
            faults.append(error)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.root
def test_a_parent_may_be_a_path(hierarchies: Hierarchies, cgroup_parent: str) -> None:
    nested = KernelCgroups(f"{cgroup_parent}/guests", hierarchies)
    nested.put(ONE, LIMITS)
    assert nested.limits(ONE) == LIMITS
    nested.remove(ONE)


@pytest.mark.root
def test_a_v2_parent_with_processes_says_how_to_delegate(
    hierarchies: Hierarchies, cgroup_parent: str, sleeper: Sleeper
) -> None:
    if hierarchies.v2 is None:
        pytest.skip("no v2 hierarchy")
    available = (hierarchies.v2 / "cgroup.controllers").read_text().split()
    if not available:
        pytest.skip("no controller is v2's")
    parent = hierarchies.v2 / cgroup_parent
    parent.mkdir()
    process = sleeper()
    (parent / "cgroup.procs").write_text(str(process.pid))
    with pytest.raises(Broken) as refused:
        enable(hierarchies.v2, cgroup_parent, (available[0],))
    assert refused.value.code == "broken/cgroup"
    assert "Delegate=yes" in refused.value.hint
    process.kill()
    process.wait()
    enable(hierarchies.v2, cgroup_parent, (available[0],))
    assert (parent / "cgroup.subtree_control").read_text().split() == [available[0]]


# ------------------------------------------------------------------ layouts, as text


def written(directory: Path, *lines: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    mountinfo = directory / "mountinfo"
    mountinfo.write_text("".join(f"{line}\n" for line in lines))
    return mountinfo


def test_a_v2_mount_with_all_controllers_is_used_alone(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    line = f"31 23 0:26 / {tmp_path} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    found = detect(written(tmp_path, line))
    assert found.mounts() == (tmp_path,)
    assert found.in_v2 == ("memory", "cpu", "pids")


def test_limits_are_v1s_where_the_v2_mount_lacks_them(tmp_path: Path) -> None:
    unified = tmp_path / "uni fied"
    unified.mkdir()
    (unified / "cgroup.controllers").write_text("pids\n")
    found = detect(
        written(
            tmp_path,
            f"1 0 0:1 / {tmp_path}/uni\\040fied rw - cgroup2 cgroup2 rw",
            "2 0 0:2 / /cg/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct",
            "3 0 0:3 / /cg/memory rw - cgroup cgroup rw,memory",
            "4 0 0:4 / /cg/freezer rw - cgroup cgroup rw,freezer",
        )
    )
    assert found.mounts() == (unified, Path("/cg/memory"), Path("/cg/cpu,cpuacct"))
    assert found.in_v2 == ("pids",)


def test_without_v2_the_freezer_tracks(tmp_path: Path) -> None:
    names = ("memory", "cpu", "pids", "freezer")
    lines = [f"{n} 0 0:{n} / /cg/{name} rw - cgroup x rw,{name}" for n, name in enumerate(names)]
    found = detect(written(tmp_path, *lines))
    assert [mount.name for mount in found.mounts()] == ["freezer", "memory", "cpu", "pids"]


def test_a_machine_that_cannot_limit_is_refused_by_the_missing_controllers(tmp_path: Path) -> None:
    with pytest.raises(Broken) as refused:
        detect(written(tmp_path, "3 0 0:3 / /cg/memory rw - cgroup cgroup rw,memory"))
    assert "cpu, pids" in refused.value.message


def test_v2_limits_are_written_and_read_in_v2s_words(tmp_path: Path) -> None:
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"):
        (tmp_path / name).write_text("max")
    values = {"memory": 96 * MIB, "cpu": 200_000, "pids": 34}
    for controller, value in values.items():
        assert cgroup_limits.get(tmp_path, controller, v2=True) is None
        cgroup_limits.put(tmp_path, controller, value, v2=True)
        assert cgroup_limits.get(tmp_path, controller, v2=True) == value
    words = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert words == {
        "memory.max": str(96 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "200000 100000",
        "pids.max": "34",
    }
