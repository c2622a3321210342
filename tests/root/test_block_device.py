"""A guest's disk that is a block device of the host, as an opened container is."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.vmm import UID, Rig
from worker.ports import ImageFiles, VmmState

pytestmark = pytest.mark.root

NUMBER_THAT_IS_ANOTHERS = os.makedev(7, 4_095)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device over 4 MiB."""
    backing = tmp_path / "backing"
    backing.write_bytes(bytes(4 << 20))
    argv = ["losetup", "--find", "--show", str(backing)]
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


@pytest.fixture
def on_device(driven_vmm: Rig, device: Path) -> Iterator[Rig]:
    """A machine whose guest's data disk is the device; the VMM ends before the device goes."""
    rootfs, config, data = driven_vmm.spec.drives
    # As udev makes it: what the spec names is a symlink.
    link = device.with_name(f"hostd-test-{os.getpid()}")
    link.symlink_to(device.name)
    rig = driven_vmm.with_spec(drives=(rootfs, config, replace(data, source=link)))
    yield rig
    rig.clean()
    link.unlink()


def test_the_jail_has_a_node_of_its_own_and_the_hosts_stays_roots(
    on_device: Rig, device: Path
) -> None:
    on_device.vmm.build_jail(on_device.spec, None)
    seen, host = (on_device.jail().root / "data").lstat(), device.stat()
    assert stat.S_ISBLK(seen.st_mode)
    assert (seen.st_rdev, seen.st_uid, seen.st_gid) == (host.st_rdev, UID, UID)
    assert stat.S_IMODE(seen.st_mode) == 0o600
    assert host.st_uid == 0


def test_a_disk_that_is_only_read_cannot_be_written_by_its_node(
    on_device: Rig, device: Path
) -> None:
    drives = tuple(replace(drive, read_only=True) for drive in on_device.spec.drives)
    rig = on_device.with_spec(drives=drives)
    rig.vmm.build_jail(rig.spec, None)
    assert stat.S_IMODE((rig.jail().root / "data").lstat().st_mode) == 0o400


def test_a_node_of_another_number_makes_the_jail_stale(on_device: Rig) -> None:
    on_device.vmm.build_jail(on_device.spec, None)
    assert on_device.vmm.jail_is_fresh(on_device.spec)
    jail = on_device.jail()
    node = jail.root / "data"
    node.unlink()
    os.mknod(node, stat.S_IFBLK | 0o600, NUMBER_THAT_IS_ANOTHERS)
    # As after a reboot, when inodes of the new /dev may have the numbers of the old one's.
    manifest = json.loads((jail.home / "jail.json").read_bytes())
    manifest["entries"]["data"][1] = [node.stat().st_dev, node.stat().st_ino]
    (jail.home / "jail.json").write_text(json.dumps(manifest))
    assert not on_device.vmm.jail_is_fresh(on_device.spec)


def test_a_guest_boots_sleeps_and_wakes_on_it(on_device: Rig, tmp_path: Path) -> None:
    rig = on_device
    rig.up()
    rig.vmm.pause(rig.ref)
    files = rig.vmm.snapshot(rig.spec)
    image = ImageFiles(tmp_path / "vmstate", tmp_path / "memory")
    files.vmstate.rename(image.vmstate)
    files.memory.rename(image.memory)
    rig.vmm.kill(rig.ref, timeout_s=5)
    rig.load(image)
    rig.vmm.resume(rig.ref)
    assert rig.vmm.state(rig.ref) is VmmState.RUNNING
