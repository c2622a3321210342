"""Bugs that controllers of Firecracker have had in the jail: none of them is in hostd."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.test_vmm import moved
from tests.fixtures.host_resources import until
from tests.fixtures.simulator import eventually
from tests.fixtures.vmm import MEM_MIB, REAL, REF, UID, Rig
from worker.host.cgroups.cgroups import KernelCgroups
from worker.host.cgroups.hierarchies import Hierarchies
from worker.plans.guest_spec import limits
from worker.ports import ImageFiles, VmmState

pytestmark = pytest.mark.root
SECCOMP_FILTER = "2"  # SECCOMP_MODE_FILTER


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def slept(rig: Rig, directory: Path) -> ImageFiles:
    rig.up()
    rig.vmm.pause(REF)
    image = moved(rig.vmm.snapshot(rig.spec), directory)
    rig.vmm.kill(REF, timeout_s=5)
    return image


def wake(rig: Rig, image: ImageFiles) -> None:
    rig.load(image)
    rig.vmm.resume(REF)


def confinement(rig: Rig) -> dict[str, object]:
    """Who the VMM is and what keeps it in, by the kernel's account."""
    pid = rig.pid()
    # Firecracker answers the boot, or the load, before its own thread takes its filter
    # (src/firecracker/src/api_server_adapter.rs).
    eventually(lambda: status_of(pid)["NoNewPrivs"] == "1", "the VMM's thread is confined")
    status, limits_ = status_of(pid), Path(f"/proc/{pid}/limits").read_text().splitlines()
    return {
        "uid": status["Uid"].split(),
        "gid": status["Gid"].split(),
        "groups": status["Groups"].split(),
        "capabilities": status["CapEff"],
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "namespaced": len(status["NSpid"].split()) - len(status_of(os.getpid())["NSpid"].split()),
        "root": Path(f"/proc/{pid}/root").samefile(rig.jail().root),
        "limits": [line for line in limits_ if line.startswith(("Max file size", "Max open"))],
        "groups_joined": [file.read_text().split() == [str(pid)] for file in rig.join_files],
    }


def test_woken_vmm_is_confined_exactly_as_a_booted_one(driven: Rig, tmp_path: Path) -> None:
    driven.up()
    booted = confinement(driven)
    driven.vmm.kill(REF, timeout_s=5)
    wake(driven, slept(driven, tmp_path / "image"))
    assert confinement(driven) == booted
    assert booted["uid"] == [str(UID)] * 4
    assert booted["gid"] == [str(UID)] * 4
    assert booted["capabilities"] == "0" * 16
    assert booted["groups"] == []
    assert booted["no_new_privileges"] == "1"
    assert booted["namespaced"] == 1
    assert booted["root"] is True
    assert booted["groups_joined"] == [True] * len(driven.join_files) != []


@pytest.mark.parametrize("driven_vmm", [REAL], indirect=True)  # stand-ins have no filter
def test_threads_of_a_woken_vmm_have_the_seccomp_filter_of_a_booted_one(
    driven: Rig, tmp_path: Path
) -> None:
    driven.up()
    eventually(
        lambda: set(filters(driven.pid()).values()) == {SECCOMP_FILTER}, "each thread has a filter"
    )
    booted = filters(driven.pid())
    driven.vmm.kill(REF, timeout_s=5)
    wake(driven, slept(driven, tmp_path / "image"))
    eventually(lambda: filters(driven.pid()) == booted, "each thread of the woken one, too")


def filters(pid: int) -> dict[str, str]:
    """The seccomp mode of each thread by its name; the kernel's own workers have none."""
    modes = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if not status["Name"].startswith("kvm"):
            modes[status["Name"]] = status["Seccomp"]
    return modes


def test_each_start_gets_a_jail_without_leftovers(driven: Rig, tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        driven.up()
        seen.append(sorted(path.name for path in driven.jail().root.iterdir()))
        driven.vmm.kill(REF, timeout_s=5)
    assert seen[0] == seen[1] == seen[2]
    wake(driven, slept(driven, tmp_path / "image"))
    driven.vmm.kill(REF, timeout_s=5)
    driven.up()
    assert sorted(path.name for path in driven.jail().root.iterdir()) == seen[0]


def test_vmm_gets_paths_inside_its_jail_only(driven: Rig) -> None:
    driven.up()
    root = driven.jail().root
    for drive in driven.spec.drives:
        inside = (root / drive.id).stat()
        assert (inside.st_dev, inside.st_ino) == (
            drive.source.stat().st_dev,
            drive.source.stat().st_ino,
        )
    assert Path(f"/proc/{driven.pid()}/root/kernel").samefile(driven.spec.kernel)


def test_cgroup_limits_the_vmm_and_kills_all_of_it(
    driven: Rig, hierarchies: Hierarchies, cgroup_parent: str
) -> None:
    groups = KernelCgroups(cgroup_parent, hierarchies)
    wanted = limits(driven.spec, overhead_mib=64)
    groups.put(REF.instance_id, wanted)
    rig = replace(driven, join_files=groups.join_files(REF.instance_id))
    rig.up()
    assert wanted.memory_max_bytes > MEM_MIB << 20
    assert groups.limits(REF.instance_id) == wanted
    assert groups.pids(REF.instance_id) == {rig.pid()}
    assert all(file.read_text().split() == [str(rig.pid())] for file in rig.join_files)
    rig.vmm.pause(REF)
    rig.vmm.snapshot(rig.spec)  # touches all of the guest's memory
    assert rig.vmm.state(REF) is VmmState.PAUSED
    groups.kill(REF.instance_id, timeout_s=5)
    assert until(lambda: rig.vmm.state(REF) is VmmState.GONE)
    groups.remove(REF.instance_id)
    assert REF.instance_id not in groups.instances()


def test_vmm_outside_its_cgroup_does_not_count_as_started(driven: Rig) -> None:
    driven.vmm.build_jail(driven.spec, None)
    elsewhere = Path("/proc/nowhere/cgroup.procs")
    with pytest.raises(Exception, match="ended by itself") as failed:
        driven.vmm.spawn(driven.spec, (*driven.join_files, elsewhere))
    assert getattr(failed.value, "code", None) == "broken/vmm_exited"
    assert driven.vmm.state(REF) is VmmState.GONE
    assert not any(file.read_text() for file in driven.join_files)
