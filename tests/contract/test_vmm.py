"""What every implementation of the port `Vmm` does."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.vmm import MEM_MIB, Rig
from worker.errors import Broken, Conflict, Transient
from worker.linux.files import aside
from worker.ports import ImageFiles, VmmState


@pytest.fixture
def rig(vmm_rig: Rig) -> Rig:
    """A machine with one implementation of the port."""
    return vmm_rig


def until(true: Callable[[], bool], *, timeout_s: float = 10) -> bool:
    """Whether it became true within the timeout."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def moved(files: ImageFiles, directory: Path) -> ImageFiles:
    """The image where a sleeping guest's would lie."""
    directory.mkdir()
    return ImageFiles(
        files.vmstate.rename(directory / "vmstate"), files.memory.rename(directory / "memory")
    )


def slept(rig: Rig, directory: Path) -> ImageFiles:
    """The image of a guest that ran; nothing of its VMM is left."""
    rig.up()
    rig.vmm.pause(rig.ref)
    files = moved(rig.vmm.snapshot(rig.spec), directory)
    rig.vmm.kill(rig.ref, timeout_s=5)
    return files


def test_an_instance_that_never_ran_is_gone(rig: Rig) -> None:
    assert rig.vmm.state(rig.ref) is VmmState.GONE
    assert rig.vmm.pid(rig.ref) is None


def test_a_jail_is_fresh_once_built_and_not_before(rig: Rig) -> None:
    assert not rig.vmm.jail_is_fresh(rig.spec)
    rig.vmm.build_jail(rig.spec, None)
    assert rig.vmm.jail_is_fresh(rig.spec)


def test_a_jail_that_lacks_a_drive_is_not_fresh(rig: Rig) -> None:
    rig.vmm.build_jail(replace(rig.spec, drives=rig.spec.drives[:-1]), None)
    assert not rig.vmm.jail_is_fresh(rig.spec)


def test_a_jail_built_for_another_spec_is_not_fresh(rig: Rig) -> None:
    rig.vmm.build_jail(rig.spec, None)
    assert not rig.vmm.jail_is_fresh(replace(rig.spec, mem_mib=MEM_MIB * 2))


def test_a_jail_for_a_boot_is_not_fresh_for_a_wake_nor_the_reverse(
    rig: Rig, tmp_path: Path
) -> None:
    image = slept(rig, tmp_path / "image")
    rig.vmm.build_jail(rig.spec, None)
    assert rig.vmm.jail_is_fresh(rig.spec)
    assert not rig.vmm.jail_is_fresh(rig.spec, image)
    rig.vmm.build_jail(rig.spec, image)
    assert rig.vmm.jail_is_fresh(rig.spec, image)
    assert not rig.vmm.jail_is_fresh(rig.spec)


def test_a_jail_for_another_image_is_not_fresh(rig: Rig, tmp_path: Path) -> None:
    image = slept(rig, tmp_path / "image")
    rig.vmm.build_jail(rig.spec, image)
    newer = image.memory.with_name("newer")
    shutil.copy2(image.memory, newer)
    newer.rename(image.memory)
    assert not rig.vmm.jail_is_fresh(rig.spec, image)


def test_a_standing_jail_tells_what_it_was_built_from(rig: Rig) -> None:
    assert rig.vmm.spec(rig.ref) is None
    rig.up()
    assert rig.restarted().spec(rig.ref) == rig.spec


def test_a_jail_is_not_built_without_a_file_that_the_guest_needs(rig: Rig) -> None:
    spec = replace(rig.spec, kernel=rig.spec.kernel.with_name("missing"))
    with pytest.raises(Conflict) as refused:
        rig.vmm.build_jail(spec, None)
    assert refused.value.code == "conflict/missing_file"
    assert not rig.vmm.jail_is_fresh(spec)


def test_a_jail_takes_a_disk_that_is_still_being_made(rig: Rig) -> None:
    data, unfinished = rig.spec.drives[2].source, frozenset({"data"})
    unformatted = data.rename(aside(data))
    with pytest.raises(Conflict):
        rig.vmm.build_jail(rig.spec, None)
    rig.vmm.build_jail(rig.spec, None, unfinished=unfinished)
    assert rig.vmm.jail_is_fresh(rig.spec, unfinished=unfinished)
    assert not rig.vmm.jail_is_fresh(rig.spec)
    rig.vmm.spawn(rig.spec, rig.join_files)
    unformatted.rename(data)
    rig.vmm.boot(rig.spec)
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_a_jail_with_another_disk_than_the_one_being_made_is_not_fresh(rig: Rig) -> None:
    data, unfinished = rig.spec.drives[2].source, frozenset({"data"})
    data.rename(aside(data))
    rig.vmm.build_jail(rig.spec, None, unfinished=unfinished)
    shutil.copy2(aside(data), data)
    assert not rig.vmm.jail_is_fresh(rig.spec, unfinished=unfinished)


@pytest.mark.parametrize("missing", [False, True])
def test_no_guest_is_booted_with_a_disk_that_the_host_does_not_have(
    rig: Rig, missing: bool
) -> None:
    rig.vmm.build_jail(rig.spec, None)
    rig.vmm.spawn(rig.spec, rig.join_files)
    data = rig.spec.drives[2].source
    data.rename(data.with_name("moved"))
    if not missing:
        shutil.copy2(data.with_name("moved"), data)
    with pytest.raises(Broken) as refused:
        rig.vmm.boot(rig.spec)
    assert refused.value.code == "broken/jail_disks"
    assert rig.vmm.state(rig.ref) is VmmState.IDLE


def test_a_spawned_vmm_waits_for_its_guest(rig: Rig) -> None:
    rig.vmm.build_jail(rig.spec, None)
    rig.vmm.spawn(rig.spec, rig.join_files)
    assert rig.vmm.state(rig.ref) is VmmState.IDLE
    assert rig.vmm.jail_is_fresh(rig.spec)


def test_a_booted_guest_runs_and_can_be_paused_and_resumed(rig: Rig) -> None:
    rig.up()
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING
    rig.vmm.pause(rig.ref)
    rig.vmm.pause(rig.ref)
    assert rig.vmm.state(rig.ref) is VmmState.PAUSED
    rig.vmm.resume(rig.ref)
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_another_hostd_finds_the_running_vmm(rig: Rig) -> None:
    rig.up()
    other = rig.restarted()
    assert other.state(rig.ref) is VmmState.RUNNING
    assert other.pid(rig.ref) == rig.vmm.pid(rig.ref) is not None


def test_a_killed_vmm_is_gone_and_killing_it_again_is_nothing(rig: Rig) -> None:
    rig.up()
    rig.vmm.kill(rig.ref, timeout_s=5)
    assert rig.vmm.state(rig.ref) is VmmState.GONE
    rig.vmm.kill(rig.ref, timeout_s=5)


def test_a_jail_that_a_vmm_has_used_is_stale_and_can_be_built_again(rig: Rig) -> None:
    rig.up()
    rig.vmm.kill(rig.ref, timeout_s=5)
    assert not rig.vmm.jail_is_fresh(rig.spec)
    rig.up()
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_a_jail_is_not_removed_under_a_living_vmm(rig: Rig) -> None:
    rig.up()
    with pytest.raises(Transient) as refused:
        rig.vmm.remove_jail(rig.ref)
    assert refused.value.code == "transient/jail_in_use"
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_nothing_is_left_of_a_removed_jail_but_the_disks(rig: Rig) -> None:
    rig.up()
    rig.vmm.kill(rig.ref, timeout_s=5)
    assert rig.vmm.jail_exists(rig.ref)
    rig.vmm.remove_jail(rig.ref)
    rig.vmm.remove_jail(rig.ref)
    assert not rig.vmm.jail_exists(rig.ref)
    assert rig.vmm.spec(rig.ref) is None
    assert not rig.layout.jail_base(rig.ref).exists()
    assert not rig.layout.runtime(rig.ref).exists()
    assert all(drive.source.exists() for drive in rig.spec.drives)


def test_a_snapshot_of_a_running_guest_is_refused_and_the_guest_runs_on(rig: Rig) -> None:
    rig.up()
    with pytest.raises(Broken) as refused:
        rig.vmm.snapshot(rig.spec)
    assert refused.value.code == "broken/vmm_refused"
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_a_snapshot_has_all_of_the_memory_and_leaves_the_guest_paused(rig: Rig) -> None:
    rig.up()
    rig.vmm.pause(rig.ref)
    files = rig.vmm.snapshot(rig.spec)
    assert files.memory.stat().st_size == MEM_MIB << 20
    assert files.vmstate.stat().st_size > 0
    assert rig.vmm.state(rig.ref) is VmmState.PAUSED


def test_a_second_snapshot_replaces_the_first(rig: Rig) -> None:
    rig.up()
    rig.vmm.pause(rig.ref)
    rig.vmm.snapshot(rig.spec)
    files = rig.vmm.snapshot(rig.spec)
    assert files.memory.stat().st_size == MEM_MIB << 20


def test_a_guest_runs_on_from_its_image_in_a_new_vmm(rig: Rig, tmp_path: Path) -> None:
    image = slept(rig, tmp_path / "image")
    rig.load(image)
    assert rig.vmm.state(rig.ref) is VmmState.PAUSED
    rig.vmm.resume(rig.ref)
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_a_woken_guest_can_sleep_and_wake_again(rig: Rig, tmp_path: Path) -> None:
    image = slept(rig, tmp_path / "first")
    for name in ("second", "third"):
        rig.vmm.build_jail(rig.spec, image)
        rig.vmm.spawn(rig.spec, rig.join_files)
        rig.vmm.load(rig.spec)
        rig.vmm.resume(rig.ref)
        rig.vmm.pause(rig.ref)
        image = moved(rig.vmm.snapshot(rig.spec), tmp_path / name)
        rig.vmm.kill(rig.ref, timeout_s=5)
    assert image.memory.stat().st_size == MEM_MIB << 20


def test_a_damaged_image_is_refused_and_the_vmm_ends(rig: Rig, tmp_path: Path) -> None:
    image = slept(rig, tmp_path / "image")
    image.vmstate.chmod(0o600)
    image.vmstate.write_bytes(b"no snapshot")
    rig.vmm.build_jail(rig.spec, image)
    rig.vmm.spawn(rig.spec, rig.join_files)
    with pytest.raises(Broken) as refused:
        rig.vmm.load(rig.spec)
    assert refused.value.code == "broken/vmm_refused"
    assert until(lambda: rig.vmm.state(rig.ref) is VmmState.GONE)


def test_a_guest_is_booted_only_once(rig: Rig) -> None:
    rig.up()
    with pytest.raises(Broken) as refused:
        rig.vmm.boot(rig.spec)
    assert refused.value.code == "broken/vmm_refused"
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING


def test_talking_to_a_vmm_that_is_gone_says_so(rig: Rig) -> None:
    with pytest.raises(Broken) as refused:
        rig.vmm.pause(rig.ref)
    assert refused.value.code == "broken/vmm_exited"


def test_a_vmm_that_is_gone_needs_no_asking_to_stop(rig: Rig) -> None:
    assert rig.vmm.ask_to_stop(rig.ref, timeout_s=1)


def test_an_idle_vmm_cannot_be_asked_to_stop(rig: Rig) -> None:
    rig.vmm.build_jail(rig.spec, None)
    rig.vmm.spawn(rig.spec, rig.join_files)
    assert not rig.vmm.ask_to_stop(rig.ref, timeout_s=0.2)
    assert rig.vmm.state(rig.ref) is VmmState.IDLE


def test_the_program_has_a_version(rig: Rig) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", rig.vmm.version())
