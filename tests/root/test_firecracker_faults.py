"""The driver against VMMs that die, refuse or hang at a chosen moment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.test_vmm import slept, until
from tests.fixtures.vmm import REF, Programs, Rig, driver_rig
from worker import simulator
from worker.errors import Broken, Transient
from worker.host.firecracker.driver import Firecracker
from worker.model.layout import Layout
from worker.ports import VmmState, VmSpec

pytestmark = pytest.mark.root

WithFaults = Callable[..., Rig]


@pytest.fixture
def with_faults(
    request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path
) -> Iterator[WithFaults]:
    """Makes a machine whose stand-in has these faults."""
    made: list[Rig] = []

    def make(**faults: object) -> Rig:
        programs = Programs(*simulator.install(tmp_path / f"programs{len(made)}", **faults))
        made.append(driver_rig(request, programs, vmm_spec, tmp_path))
        return made[-1]

    yield make
    for rig in made:
        rig.clean()


@pytest.mark.parametrize(
    ("code", "words"),
    [(148, "seccomp"), (149, "SIGBUS"), (151, "fsize"), (153, "arguments"), (9, "not a code")],
)
def test_a_vmm_that_dies_before_its_api_is_up_tells_its_exit_code(
    with_faults: WithFaults, code: int, words: str
) -> None:
    rig = with_faults(die_before_socket=True, exit_code=code)
    rig.vmm.build_jail(rig.spec, None)
    with pytest.raises(Broken) as failed:
        rig.vmm.spawn(rig.spec, rig.join_files)
    assert failed.value.code == "broken/vmm_exited"
    assert failed.value.facts["exit_code"] == code
    assert words in failed.value.message
    assert rig.vmm.state(REF) is VmmState.GONE


def test_a_vmm_that_dies_when_first_spoken_to_leaves_nothing_running(
    with_faults: WithFaults,
) -> None:
    rig = with_faults(routes={"GET /": {"exit": 150}})
    rig.vmm.build_jail(rig.spec, None)
    with pytest.raises(Broken) as failed:
        rig.vmm.spawn(rig.spec, rig.join_files)
    assert failed.value.facts["exit_code"] == 150
    assert not any(file.read_text() for file in rig.join_files)


def test_a_vmm_that_dies_in_a_snapshot_has_made_none(with_faults: WithFaults) -> None:
    rig = with_faults(die_in_snapshot=True)
    rig.up()
    rig.vmm.pause(REF)
    with pytest.raises(Broken) as failed:
        rig.vmm.snapshot(rig.spec)
    assert failed.value.code == "broken/vmm_exited"
    assert failed.value.facts["exit_code"] == 150
    assert rig.vmm.state(REF) is VmmState.GONE


def test_a_vmm_that_dies_after_a_snapshot_has_made_it(with_faults: WithFaults) -> None:
    rig = with_faults(die_after_snapshot=True)
    rig.up()
    rig.vmm.pause(REF)
    assert rig.vmm.snapshot(rig.spec).memory.stat().st_size == rig.spec.mem_mib << 20
    assert until(lambda: rig.vmm.state(REF) is VmmState.GONE)


def test_a_vmm_that_dies_in_a_load_is_reported_as_exited(
    with_faults: WithFaults, tmp_path: Path
) -> None:
    rig = with_faults(routes={"PUT /snapshot/load": {"exit": 150}})
    rig.vmm.build_jail(rig.spec, slept(rig, tmp_path / "image"))
    rig.vmm.spawn(rig.spec, rig.join_files)
    with pytest.raises(Broken) as failed:
        rig.vmm.load(rig.spec)
    assert failed.value.code == "broken/vmm_exited"


def test_a_refused_snapshot_leaves_the_guest_paused_and_whole(with_faults: WithFaults) -> None:
    rig = with_faults(routes={"PUT /snapshot/create": {"status": 400, "message": "no luck"}})
    rig.up()
    rig.vmm.pause(REF)
    with pytest.raises(Broken) as refused:
        rig.vmm.snapshot(rig.spec)
    assert "no luck" in refused.value.message
    rig.vmm.resume(REF)
    assert rig.vmm.state(REF) is VmmState.RUNNING


def test_a_vmm_that_never_answers_is_killed_all_the_same(with_faults: WithFaults) -> None:
    rig = with_faults(routes={"PUT /vsock": {"hang": True}})
    rig.vmm.build_jail(rig.spec, None)
    rig.vmm.spawn(rig.spec, rig.join_files)
    impatient = rig.impatient(api_timeout_s=0.1)
    with pytest.raises(Transient) as late:
        impatient.boot(rig.spec)
    assert late.value.code == "transient/vmm_timeout"
    assert not impatient.ask_to_stop(REF, timeout_s=60)
    impatient.kill(REF, timeout_s=5)
    assert impatient.state(REF) is VmmState.GONE


def test_a_guest_that_is_asked_to_stop_ends_its_vmm(with_faults: WithFaults) -> None:
    rig = with_faults()
    rig.up()
    assert rig.vmm.ask_to_stop(REF, timeout_s=10)
    assert rig.vmm.state(REF) is VmmState.GONE


def test_a_guest_that_does_not_listen_runs_on_after_the_timeout(with_faults: WithFaults) -> None:
    rig = with_faults(ignore_ctrl_alt_del=True)
    rig.up()
    assert not rig.vmm.ask_to_stop(REF, timeout_s=0.2)
    assert rig.vmm.state(REF) is VmmState.RUNNING


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB: room for a jail, not for the guest's memory."""
    directory = tmp_path / "state"
    directory.mkdir(exist_ok=True)
    size = ["mount", "-t", "tmpfs", "-o", "size=24M,mode=755", "hostd-test", str(directory)]
    subprocess.run(size, check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_snapshot_that_does_not_fit_raises_no_space_and_leaves_the_guest_paused(
    small_disk: Path, driven_vmm: Rig
) -> None:
    rig = driven_vmm
    volumes = Layout(small_disk).volumes(REF)
    volumes.mkdir(parents=True, exist_ok=True)
    for drive in rig.spec.drives:
        drive.source.write_bytes(bytes(4096))
        drive.source.chmod(0o644)
    (small_disk / "filler").write_bytes(b"x" * (14 << 20))
    rig.up()
    rig.vmm.pause(REF)
    with pytest.raises(Transient) as refused:
        rig.vmm.snapshot(rig.spec)
    assert refused.value.code == "transient/no_space"
    assert rig.vmm.state(REF) is VmmState.PAUSED


def test_a_jail_that_does_not_fit_raises_no_space(small_disk: Path, driven_vmm: Rig) -> None:
    rig = driven_vmm
    rig.spec.drives[0].source.write_bytes(bytes(4096))
    unreadable = small_disk.with_name("private-kernel")
    unreadable.write_bytes(b"k" * (30 << 20))
    unreadable.chmod(0o600)
    spec = replace(rig.spec, kernel=unreadable, drives=rig.spec.drives[:1])
    with pytest.raises(Transient) as refused:
        rig.vmm.build_jail(spec, None)
    assert refused.value.code == "transient/no_space"
    assert not rig.vmm.jail_is_fresh(spec)
    assert isinstance(rig.vmm, Firecracker)
