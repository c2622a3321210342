"""Sleep images on storage encrypted with the tenant's key: a real ext4, then its raw bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.test_images import FIRST, MIB, REF
from tests.fixtures.filesystems import LoopExt4, LoopMaker
from tests.fixtures.vmm import UID
from worker.errors import Conflict
from worker.host.disks.fscrypt import can_encrypt
from worker.host.firecracker.jail.files import Access, JailFile, install
from worker.host.firecracker.jail.jail import Jail
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput
from worker.host.images.images import DiskImages
from worker.linux import mounts
from worker.model.layout import Layout
from worker.ports import ImageFiles, ImageState

pytestmark = pytest.mark.root
MARKER = b"only the tenant may ever read this "
KEY = bytes(range(32))


@pytest.fixture
def disk(loop_ext4: LoopMaker) -> LoopExt4:
    """A filesystem that can encrypt."""
    return loop_ext4(64, "encrypt")


def state_on(disk: LoopExt4, *, key: bytes | None = KEY) -> Layout:
    layout = Layout(disk.at / "state")
    if key is not None:
        put_key(layout, key)
    return layout


def put_key(layout: Layout, key: bytes) -> None:
    file = layout.state / "keys" / f"{REF.tenant_id}.key"
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file.write_bytes(key)
    file.chmod(0o600)


def written_by_a_vmm(layout: Layout) -> ImageFiles:
    """A snapshot, as it comes out of a jail."""
    jail = Jail(layout.jail_base(REF), "firecracker", REF.instance_id)
    jail.root.mkdir(parents=True)
    output = SnapshotOutput(jail, UID, DiskImages(layout).encrypted_directory(REF))
    output.reserve(MIB)
    output.consume_reservation()
    with (jail.root / "snapshot" / "memory").open("r+b") as memory:
        memory.write(MARKER * 10_000)
    vmstate = jail.root / "snapshot" / "vmstate"
    vmstate.write_bytes(MARKER)
    os.chown(vmstate, UID, UID)
    return ImageFiles(output.collect("vmstate"), output.collect("memory", MIB))


def slept(layout: Layout, tmp_path: Path) -> DiskImages:
    images = DiskImages(layout, reserve_bytes=0)
    images.reserve(REF, FIRST, MIB)
    secrets = tmp_path / "secrets"
    secrets.write_bytes(MARKER * 100)
    images.seal(REF, FIRST, written_by_a_vmm(layout), secrets, {})
    images.publish(REF, FIRST)
    return images


def raw(disk: LoopExt4) -> bytes:
    os.sync()
    disk.unmount()
    return disk.image.read_bytes()


def test_no_byte_of_the_guest_is_on_the_disk_and_with_the_key_all_of_it_is(
    disk: LoopExt4, tmp_path: Path
) -> None:
    layout = state_on(disk)
    slept(layout, tmp_path)
    on_disk = raw(disk)
    assert MARKER not in on_disk
    assert b"mem.bin" not in on_disk, "names are encrypted too"
    disk.mount()
    names = {path.name for path in (layout.images(REF) / "sleep").iterdir()}
    assert "mem.bin" not in names, "the kernel has forgotten the key"
    image = DiskImages(layout).find(REF)
    assert image is not None
    assert image.files.memory.read_bytes().startswith(MARKER * 10_000)
    assert image.secrets is not None
    assert image.secrets.read_bytes() == MARKER * 100


def test_without_a_key_the_same_bytes_are_there_to_read(disk: LoopExt4, tmp_path: Path) -> None:
    slept(state_on(disk, key=None), tmp_path)
    assert MARKER in raw(disk), "or the test above would prove nothing"


@pytest.mark.parametrize("other", [None, bytes(32)])
def test_without_its_key_an_image_is_locked_not_lost(
    disk: LoopExt4, tmp_path: Path, other: bytes | None
) -> None:
    layout = state_on(disk)
    slept(layout, tmp_path)
    disk.unmount()
    disk.mount()
    if other is None:
        (layout.state / "keys" / f"{REF.tenant_id}.key").unlink()
    else:
        put_key(layout, other)
    images = DiskImages(layout)
    with pytest.raises(Conflict) as refused:
        images.find(REF)
    assert refused.value.code == "conflict/storage_locked"
    assert images.has_files(REF)
    put_key(layout, KEY)
    found = images.find(REF)
    assert found is not None
    assert found.state is ImageState.PUBLISHED


def test_a_locked_image_can_be_discarded(disk: LoopExt4, tmp_path: Path) -> None:
    layout = state_on(disk)
    slept(layout, tmp_path)
    disk.unmount()
    disk.mount()
    (layout.state / "keys" / f"{REF.tenant_id}.key").unlink()
    images = DiskImages(layout)
    images.discard(REF)
    assert not images.has_files(REF)


def test_a_jail_that_is_not_encrypted_gets_the_image_by_hard_link(
    disk: LoopExt4, tmp_path: Path
) -> None:
    layout = state_on(disk)
    image = slept(layout, tmp_path).find(REF)
    assert image is not None
    target = disk.at / "jail" / "memory"
    target.parent.mkdir()
    install(JailFile("memory", image.files.memory, Access.IMAGE, read_only=True), target, UID)
    assert target.samefile(image.files.memory)
    assert mounts.below(target.parent) == []
    assert target.read_bytes().startswith(MARKER)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_compressed_images_are_encrypted_too(
    disk: LoopExt4, compression: str, tmp_path: Path
) -> None:
    layout = state_on(disk)
    images = DiskImages(layout, reserve_bytes=0)
    files = written_by_a_vmm(layout)
    images.seal(REF, FIRST, files, None, {}, compression=compression)  # type: ignore[arg-type]  # parametrized
    images.publish(REF, FIRST)
    images.make_usable(REF)
    assert images.usable(REF)
    assert MARKER not in raw(disk)


def test_a_filesystem_that_cannot_encrypt_is_refused_before_anything_is_written(
    loop_ext4: LoopMaker,
) -> None:
    plain = loop_ext4(64)
    assert not can_encrypt(plain.at)
    layout = state_on(plain)
    jail = Jail(layout.jail_base(REF), "firecracker", REF.instance_id)
    jail.root.mkdir(parents=True)
    images = DiskImages(layout, reserve_bytes=0)
    holds: list[Callable[[], None]] = [
        lambda: SnapshotOutput(jail, UID, images.encrypted_directory(REF)).reserve(MIB),
        lambda: images.reserve(REF, FIRST, MIB),
    ]
    for hold in holds:
        with pytest.raises(Conflict) as refused:
            hold()
        assert refused.value.code == "conflict/storage_not_encrypted"
        assert "tune2fs -O encrypt" in refused.value.hint
    assert list((jail.root / "snapshot").iterdir()) == []


def test_a_filesystem_that_can_encrypt_says_so(disk: LoopExt4) -> None:
    assert can_encrypt(disk.at)


def test_a_key_of_another_length_is_refused(disk: LoopExt4) -> None:
    layout = state_on(disk, key=b"short")
    with pytest.raises(Conflict) as refused:
        DiskImages(layout, reserve_bytes=0).reserve(REF, FIRST, MIB)
    assert refused.value.code == "conflict/bad_key"
