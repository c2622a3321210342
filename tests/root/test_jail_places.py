"""Where a jail may lie and what may be put into it: deep directories, block devices."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.test_vmm import moved
from tests.fixtures.vmm import REAL, REF, STAND_IN, UID, Programs, Rig, driver_rig, real_programs
from worker.host.firecracker.driver import Firecracker
from worker.model.layout import Layout
from worker.ports import Drive, VmmState, VmSpec

pytestmark = pytest.mark.root


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


@pytest.fixture(params=[STAND_IN, REAL])
def deep(request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path) -> Iterator[Rig]:
    """A machine whose state directory has a path of over 300 bytes."""
    stand_in = request.param == "stand-in"
    programs: Programs = request.getfixturevalue("stand_in") if stand_in else real_programs()
    base = tmp_path.joinpath(*["a-very-long-name-of-a-directory" * 3] * 4)
    rig = driver_rig(request, programs, vmm_spec, tmp_path)
    layout = Layout(base / "state")
    volumes = layout.volumes(REF)
    volumes.mkdir(parents=True)
    drives = []
    for drive in rig.spec.drives:
        if not drive.shared:
            drive.source.rename(volumes / drive.source.name)
            drive = replace(drive, source=volumes / drive.source.name)
        drives.append(drive)

    def driver() -> Firecracker:
        return Firecracker(layout, firecracker=programs.firecracker, jailer=programs.jailer)

    spec = replace(rig.spec, drives=tuple(drives))
    made = Rig(driver(), spec, rig.join_files, layout, driver)
    yield made
    made.clean()


def test_a_state_path_of_over_300_bytes_works_through_a_whole_life(
    deep: Rig, tmp_path: Path
) -> None:
    assert len(str(deep.layout.state)) > 300
    deep.up()
    assert deep.vmm.state(REF) is VmmState.RUNNING
    deep.vmm.pause(REF)
    image = moved(deep.vmm.snapshot(deep.spec), tmp_path / "image")
    deep.vmm.kill(REF, timeout_s=5)
    deep.load(image)
    deep.vmm.resume(REF)
    assert deep.restarted().state(REF) is VmmState.RUNNING
    deep.vmm.ask_to_stop(REF, timeout_s=0)
    deep.vmm.kill(REF, timeout_s=5)
    deep.vmm.remove_jail(REF)
    assert not deep.vmm.jail_exists(REF)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 4 MiB."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"on a device".ljust(4 << 20, b"\0"))
    made = subprocess.run(
        ["losetup", "--find", "--show", backing], check=False, capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"no loop device can be had: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def on_device(rig: Rig, device: Path) -> Rig:
    rest = tuple(drive for drive in rig.spec.drives if drive.id != "data")
    return rig.with_spec(drives=(*rest, Drive("data", device, read_only=False, durable=True)))


def test_a_block_device_is_a_node_of_the_jails_own(driven: Rig, device: Path) -> None:
    rig = on_device(driven, device)
    before = device.stat()
    rig.up()
    node = (rig.jail().root / "data").stat()
    assert stat.S_ISBLK(node.st_mode)
    assert (node.st_rdev, node.st_uid, node.st_gid) == (before.st_rdev, UID, UID)
    assert stat.S_IMODE(node.st_mode) == 0o600
    # The host's own node keeps its owner: other users of the device are not shut out or let in.
    assert (device.stat().st_uid, device.stat().st_mode) == (before.st_uid, before.st_mode)
    opened = {link.stat().st_rdev for link in _descriptors(rig.pid())}
    assert before.st_rdev in opened or rig.driver().version() == "1.16.1"
    assert rig.vmm.state(REF) is VmmState.RUNNING


def _descriptors(pid: int) -> list[Path]:
    # `stat` follows these links into the VMM's own root.
    return [path for path in Path(f"/proc/{pid}/fd").iterdir() if path.exists()]


def test_a_jail_with_a_block_device_is_fresh_once_and_removed_without_the_device(
    driven: Rig, device: Path
) -> None:
    rig = on_device(driven, device)
    rig.vmm.build_jail(rig.spec, None)
    assert rig.vmm.jail_is_fresh(rig.spec)
    rig.vmm.remove_jail(REF)
    assert device.is_block_device()
    with device.open("rb") as disk:
        assert disk.read(11) == b"on a device"


def test_a_guest_on_a_block_device_wakes_from_its_image(
    driven: Rig, device: Path, tmp_path: Path
) -> None:
    rig = on_device(driven, device)
    rig.up()
    rig.vmm.pause(REF)
    image = moved(rig.vmm.snapshot(rig.spec), tmp_path / "image")
    rig.vmm.kill(REF, timeout_s=5)
    rig.vmm.build_jail(rig.spec, image)
    assert rig.vmm.jail_is_fresh(rig.spec, image)
    rig.vmm.spawn(rig.spec, rig.join_files)
    rig.vmm.load(rig.spec)
    rig.vmm.resume(REF)
    assert rig.vmm.state(REF) is VmmState.RUNNING
