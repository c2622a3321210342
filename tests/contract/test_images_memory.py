"""What every `Images` promises about compressed memory; then digests, which only files have."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from enqueue.documents import Compression
from tests.contract.test_images import FIRST, MIB, REF, SECOND, World, made, snapshot
from tests.contract.test_images import layout as layout
from tests.contract.test_images import world as world
from worker.errors import Lost
from worker.host.images import compression
from worker.host.images.compression import Codec, UnreadableError
from worker.host.images.images import DiskImages
from worker.model.layout import Layout
from worker.ports import Images

CODECS: tuple[Codec, ...] = ("zstd", "lz4")


def packed(images: Images, layout: Layout, packing: Compression, *, memory: bytes = b"m") -> None:
    written = snapshot(layout, memory=memory)
    images.seal(REF, FIRST, written, None, {}, compression=packing)
    images.publish(REF, FIRST)


@pytest.mark.parametrize("packing", CODECS)
def test_a_compressed_memory_is_there_again_once_it_is_asked_for(
    world: World, layout: Layout, packing: Codec
) -> None:
    packed(world.images, layout, packing, memory=os.urandom(5000))
    image = world.images.find(REF)
    assert image is not None
    assert not image.files.memory.exists()
    assert not world.images.usable(REF)
    before = image.files.vmstate.read_bytes().removeprefix(b"state of ")
    for _ in range(2):
        world.images.make_usable(REF)
        assert world.images.usable(REF)
    assert image.files.memory.read_bytes() == before.ljust(MIB, b"\0")
    world.images.discard(REF)
    assert not world.images.has_files(REF)
    assert not image.files.memory.exists()


def test_an_uncompressed_memory_is_usable_as_it_is(world: World, layout: Layout) -> None:
    made(world.images, layout, FIRST)
    assert world.images.usable(REF)
    world.images.make_usable(REF)
    assert world.images.usable(REF)


# ------------------------------------------------------------------ only files can show


@pytest.fixture
def images(layout: Layout) -> DiskImages:
    return DiskImages(layout, reserve_bytes=0)


@pytest.fixture
def digesting(layout: Layout) -> DiskImages:
    return DiskImages(layout, reserve_bytes=0, digest_memory=True)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def lost(images: Images) -> str:
    with pytest.raises(Lost) as refused:
        images.make_usable(REF)
    assert refused.value.code == "lost/image_damaged"
    assert not images.usable(REF)
    return refused.value.message


@pytest.mark.parametrize("packing", CODECS)
def test_the_raw_memory_is_not_kept_beside_the_compressed_one(
    images: DiskImages, layout: Layout, packing: Codec
) -> None:
    packed(images, layout, packing)
    names = {path.name for path in (layout.images(REF) / "sleep").iterdir()}
    assert names == {"vmstate.bin", f"mem.bin.{packing}", "manifest.json"}


@pytest.mark.parametrize("packing", CODECS)
def test_zeros_of_the_memory_become_holes(
    images: DiskImages, layout: Layout, packing: Codec
) -> None:
    packed(images, layout, packing)
    images.make_usable(REF)
    memory = (layout.images(REF) / "sleep" / "mem.bin").stat()
    assert memory.st_size == MIB
    assert memory.st_blocks * 512 <= 128 << 10


@pytest.mark.parametrize("packing", CODECS)
def test_a_flipped_bit_of_the_compressed_memory_is_found(
    images: DiskImages, layout: Layout, packing: Codec
) -> None:
    packed(images, layout, packing, memory=os.urandom(100_000))
    flip(layout.images(REF) / "sleep" / f"mem.bin.{packing}", 50_000)
    lost(images)
    names = {path.name for path in (layout.images(REF) / "sleep").iterdir()}
    assert names == {"vmstate.bin", f"mem.bin.{packing}", "manifest.json"}


def test_a_flipped_bit_of_the_memory_is_found_where_a_digest_was_taken(
    images: DiskImages, digesting: DiskImages, layout: Layout
) -> None:
    made(digesting, layout, FIRST)
    assert not images.usable(REF), "the manifest decides, not the configuration"
    images.make_usable(REF)
    assert images.usable(REF)
    flip(layout.images(REF) / "sleep" / "mem.bin", 7)
    assert not images.usable(REF)
    assert "digest" in lost(images)


def test_an_image_of_another_request_is_checked_again(
    digesting: DiskImages, layout: Layout
) -> None:
    made(digesting, layout, FIRST)
    digesting.make_usable(REF)
    digesting.consume(REF)
    made(digesting, layout, SECOND)
    assert not digesting.usable(REF)


def test_a_memory_checked_in_another_boot_is_checked_again(
    digesting: DiskImages, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(digesting, layout, FIRST)
    digesting.make_usable(REF)
    (tmp_path / "boot_id").write_text("another")
    monkeypatch.setattr("worker.linux.machine.BOOT_ID", tmp_path / "boot_id")
    assert not digesting.usable(REF)


def test_changed_secrets_are_seen_by_a_thorough_look(
    images: DiskImages, layout: Layout, tmp_path: Path
) -> None:
    secrets = tmp_path / "secrets.ext4"
    with secrets.open("wb") as file:
        file.truncate(16 * MIB)
        file.seek(5 * MIB + 100)
        file.write(b"secret")
    images.seal(REF, FIRST, snapshot(layout), secrets, {})
    images.publish(REF, FIRST)
    assert images.verify(REF) == ()
    copy = layout.images(REF) / "sleep" / "secrets.ext4"
    assert copy.stat().st_blocks * 512 < MIB
    copy.write_bytes(copy.read_bytes())
    assert images.verify(REF) == (), "the same bytes without holes"
    flip(copy, 9 * MIB)
    assert images.verify(REF) == ("secrets.ext4 has another digest",)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("content", [b"", b"x", bytes(3 << 20), os.urandom(3 << 20) + b"\0" * 9])
def test_any_bytes_survive_a_codec(codec: Codec, content: bytes, tmp_path: Path) -> None:
    packed = io.BytesIO()
    digest = compression.pack(codec, io.BytesIO(content), packed)
    packed.seek(0)
    with (tmp_path / "out").open("w+b") as target:
        assert compression.unpack(codec, packed, target, len(content)) == digest
    assert (tmp_path / "out").read_bytes() == content


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size_bytes", [MIB - 1, MIB + 1])
def test_another_size_than_was_packed_is_refused(
    codec: Codec, size_bytes: int, tmp_path: Path
) -> None:
    packed = io.BytesIO()
    compression.pack(codec, io.BytesIO(os.urandom(MIB)), packed)
    packed.seek(0)
    with (tmp_path / "out").open("w+b") as target, pytest.raises(UnreadableError):
        compression.unpack(codec, packed, target, size_bytes)


@pytest.mark.parametrize("codec", CODECS)
def test_what_was_cut_off_is_refused(codec: Codec, tmp_path: Path) -> None:
    packed = io.BytesIO()
    compression.pack(codec, io.BytesIO(os.urandom(MIB)), packed)
    cut = io.BytesIO(packed.getvalue()[: MIB // 2])
    with (tmp_path / "out").open("w+b") as target, pytest.raises(UnreadableError):
        compression.unpack(codec, cut, target, MIB)
