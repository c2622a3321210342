"""Room for a snapshot is held before the guest is paused, and given back."""

from __future__ import annotations

import pytest

from tests.fixtures.vmm import MEM_MIB, Rig
from worker.host.firecracker.driver import Firecracker


@pytest.fixture
def rig(vmm_rig: Rig) -> Rig:
    """A machine with one implementation of the port."""
    return vmm_rig


def test_space_is_reserved_until_the_snapshot_uses_it(rig: Rig) -> None:
    rig.up()
    assert not rig.vmm.snapshot_reserved(rig.spec)
    for _ in range(2):
        rig.vmm.reserve_snapshot(rig.spec)
        assert rig.restarted().snapshot_reserved(rig.spec)
    rig.vmm.pause(rig.ref)
    files = rig.vmm.snapshot(rig.spec)
    assert files.memory.stat().st_size == MEM_MIB << 20
    assert not rig.vmm.snapshot_reserved(rig.spec)
    assert files.memory.exists()


def test_a_guest_can_still_be_saved_after_its_reservation_was_released(rig: Rig) -> None:
    rig.up()
    rig.vmm.reserve_snapshot(rig.spec)
    for _ in range(2):
        rig.vmm.release_snapshot(rig.ref)
        assert not rig.vmm.snapshot_reserved(rig.spec)
    rig.vmm.pause(rig.ref)
    assert rig.vmm.snapshot(rig.spec).vmstate.exists()


def test_reserving_again_gives_up_what_an_earlier_snapshot_left(rig: Rig) -> None:
    rig.up()
    rig.vmm.pause(rig.ref)
    old = rig.vmm.snapshot(rig.spec)
    rig.vmm.reserve_snapshot(rig.spec)
    assert rig.vmm.snapshot_reserved(rig.spec)
    assert not isinstance(rig.vmm, Firecracker) or not old.memory.exists()


def test_releasing_without_a_jail_is_nothing(rig: Rig) -> None:
    rig.vmm.release_snapshot(rig.ref)
    assert not rig.vmm.jail_exists(rig.ref)


@pytest.mark.root
def test_the_memory_is_written_to_the_reserved_blocks(
    driven_vmm: Rig,
) -> None:
    driven_vmm.up()
    driven_vmm.vmm.reserve_snapshot(driven_vmm.spec)
    held = driven_vmm.jail().root / "snapshot" / "memory"
    before = held.stat()
    assert before.st_blocks * 512 >= MEM_MIB << 20
    driven_vmm.vmm.pause(driven_vmm.ref)
    after = driven_vmm.vmm.snapshot(driven_vmm.spec).memory.stat()
    assert (after.st_ino, after.st_blocks) == (before.st_ino, before.st_blocks)
