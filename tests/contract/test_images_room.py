"""What every `Images` promises about room, and what only a full disk can show."""

from __future__ import annotations

import pytest

from tests.contract.test_images import FIRST, MIB, OTHER, REF, SECOND, World, sealed
from tests.contract.test_images import layout as layout
from tests.contract.test_images import world as world
from tests.fixtures.filesystems import LoopMaker
from tests.fixtures.vmm import UID
from worker.errors import Transient
from worker.host.firecracker.jail.jail import Jail
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput
from worker.host.images.images import DiskImages
from worker.model.layout import Layout
from worker.ports import Images


def test_space_is_reserved_for_one_request_and_can_be_released_twice(world: World) -> None:
    images = world.images
    assert not images.reserved(REF, FIRST, MIB)
    for _ in range(2):
        images.reserve(REF, FIRST, MIB)
        assert images.reserved(REF, FIRST, MIB)
    assert not images.reserved(REF, SECOND, MIB)
    assert not images.reserved(OTHER, FIRST, MIB)
    assert not images.reserved(REF, FIRST, 2 * MIB)
    assert images.find(REF) is None
    assert not images.is_complete(REF, FIRST)
    for _ in range(2):
        images.release(REF, FIRST)
        assert not images.reserved(REF, FIRST, MIB)
        assert not images.has_files(REF)


def test_sealing_uses_the_room_up(world: World, layout: Layout) -> None:
    world.images.reserve(REF, FIRST, MIB)
    sealed(world.images, layout, FIRST)
    assert not world.images.reserved(REF, FIRST, MIB)
    assert world.images.is_complete(REF, FIRST)


def test_releasing_takes_a_sealed_generation_but_no_published_image(
    world: World, layout: Layout
) -> None:
    sealed(world.images, layout, FIRST)
    world.images.publish(REF, FIRST)
    sealed(world.images, layout, SECOND)
    for request_id in (FIRST, SECOND):
        world.images.release(REF, request_id)
    assert not world.images.is_complete(REF, SECOND)
    image = world.images.find(REF)
    assert image is not None
    assert image.manifest["request_id"] == FIRST


def test_the_reservation_of_a_killed_attempt_is_discarded_with_the_rest(world: World) -> None:
    world.images.reserve(REF, FIRST, MIB)
    assert world.images.has_files(REF)
    world.images.discard(REF)
    assert not world.images.has_files(REF)


# ------------------------------------------------------------------ only a full disk can show


@pytest.fixture
def small(loop_ext4: LoopMaker) -> Layout:
    """A state directory on a filesystem with about 50 MiB of room."""
    return Layout(loop_ext4(64).at / "state")


def no_space(images: Images, size_bytes: int) -> None:
    with pytest.raises(Transient) as refused:
        images.reserve(OTHER, SECOND, size_bytes)
    assert refused.value.code == "transient/no_space"
    assert set(refused.value.facts) == {"needed_bytes", "free_bytes"}
    assert not images.reserved(OTHER, SECOND, size_bytes)


@pytest.mark.root
def test_what_one_sleep_holds_another_cannot_have(small: Layout) -> None:
    images = DiskImages(small, reserve_bytes=0)
    images.reserve(REF, FIRST, 30 * MIB)
    no_space(images, 30 * MIB)
    assert images.reserved(REF, FIRST, 30 * MIB)
    images.release(REF, FIRST)
    images.reserve(OTHER, SECOND, 30 * MIB)


@pytest.mark.root
def test_no_other_writer_can_fill_the_space_reserved_for_a_snapshot(small: Layout) -> None:
    jail = Jail(small.jail_base(REF), "firecracker", REF.instance_id)
    jail.root.mkdir(parents=True)
    output = SnapshotOutput(jail, UID)
    output.reserve(20 * MIB)
    rest = jail.base / "rest"
    with pytest.raises(OSError, match="No space left"):
        rest.write_bytes(bytes(60 * MIB))
    output.consume_reservation()
    with (jail.root / "snapshot" / "memory").open("r+b") as memory:
        memory.write(b"\xff" * (20 * MIB))
    (jail.root / "snapshot" / "vmstate").write_bytes(b"\xff" * (4 * MIB))
    assert output.collect("memory", 20 * MIB).stat().st_uid == UID


@pytest.mark.root
def test_a_snapshot_that_finds_no_room_says_how_much_it_needs(small: Layout) -> None:
    jail = Jail(small.jail_base(REF), "firecracker", REF.instance_id)
    jail.root.mkdir(parents=True)
    output = SnapshotOutput(jail, UID)
    with pytest.raises(Transient) as refused:
        output.reserve(200 * MIB)
    assert refused.value.code == "transient/no_space"
    assert refused.value.facts["needed_bytes"] == 200 * MIB
    assert not output.room_reserved(200 * MIB)
    output.release()
    assert not (jail.root / "snapshot").exists()


@pytest.mark.root
def test_the_margin_stays_free(small: Layout) -> None:
    images = DiskImages(small, reserve_bytes=40 * MIB)
    no_space(images, 20 * MIB)
    assert not images.has_files(OTHER)
