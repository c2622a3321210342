"""How a jail is built on the kernel: links, copies, mounts, kills in the middle."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.fixtures.other_hostd import another_process
from tests.fixtures.vmm import REF, UID, Rig
from worker.linux import mounts
from worker.ports import Drive, VmmState

pytestmark = pytest.mark.root


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def with_secrets(rig: Rig, directory: Path) -> Rig:
    secrets = directory / "secrets.ext4"
    secrets.write_bytes(b"secret".ljust(4096, b"\0"))
    secrets.chmod(0o600)
    return rig.with_spec(drives=(*rig.spec.drives, Drive("secrets", secrets, read_only=True)))


def test_shared_files_keep_their_owner_and_private_ones_get_the_jails(driven: Rig) -> None:
    driven.vmm.build_jail(driven.spec, None)
    root = driven.jail().root
    assert (root / "rootfs").stat().st_uid == 0
    assert (root / "kernel").samefile(driven.spec.kernel)
    assert (root / "data").samefile(driven.spec.drives[2].source)
    assert (root / "data").stat().st_uid == UID


def test_a_shared_file_that_not_all_may_read_is_copied(driven: Rig) -> None:
    rootfs = driven.spec.drives[0].source
    with rootfs.open("r+b") as file:
        file.seek(4 << 20)
        file.write(b"after a hole")
        file.truncate(8 << 20)
    rootfs.chmod(0o600)
    driven.vmm.build_jail(driven.spec, None)
    copy = driven.jail().root / "rootfs"
    assert not copy.samefile(rootfs)
    assert copy.read_bytes() == rootfs.read_bytes()
    assert copy.stat().st_blocks * 512 < 1 << 20
    assert (rootfs.stat().st_uid, rootfs.stat().st_mode & 0o777) == (0, 0o600)
    assert (copy.stat().st_gid, copy.stat().st_mode & 0o777) == (UID, 0o440)


def test_a_disk_in_memory_is_mounted_into_the_jail_and_unmounted_with_it(
    driven: Rig, memory_backed: Path
) -> None:
    rig = with_secrets(driven, memory_backed)
    rig.up()
    base = rig.layout.jail_base(REF)
    assert [point.name for point in mounts.below(base)] == ["secrets"]
    assert rig.vmm.state(REF) is VmmState.RUNNING
    rig.vmm.kill(REF, timeout_s=5)
    rig.vmm.remove_jail(REF)
    assert not mounts.below(base)
    assert rig.spec.drives[-1].source.read_bytes().startswith(b"secret")


def test_a_jail_whose_mount_is_lost_is_stale(driven: Rig, memory_backed: Path) -> None:
    rig = with_secrets(driven, memory_backed)
    rig.vmm.build_jail(rig.spec, None)
    assert rig.vmm.jail_is_fresh(rig.spec)
    mounts.unmount(rig.jail().root / "secrets")
    assert not rig.vmm.jail_is_fresh(rig.spec)
    rig.vmm.build_jail(rig.spec, None)
    assert rig.vmm.jail_is_fresh(rig.spec)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_a_jail_that_hostd_was_killed_in_building_never_counts_as_fresh(
    driven: Rig, memory_backed: Path, n: int
) -> None:
    rig = with_secrets(driven, memory_backed)
    code = another_process(
        f"""
made = iter(range(1, 100))
place = jail.install
def place_or_die(*args):
    placed = place(*args)
    if next(made) == {n}:
        die()
    return placed
jail.install = place_or_die
vmm.build_jail(spec, None)
""",
        rig,
    )
    assert code == -signal.SIGKILL
    assert not rig.vmm.jail_is_fresh(rig.spec)
    rig.up()
    assert rig.vmm.state(REF) is VmmState.RUNNING
