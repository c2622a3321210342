"""What every `Images` promises; then what only a filesystem can show."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from enqueue.requests import InstanceId, PoolId, TenantId
from tests.fakes.images import FakeImages
from worker.errors import Broken, Conflict, HostdError, Lost, Transient
from worker.host.images.images import DiskImages
from worker.linux import files
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import ImageFiles, Images, ImageState

REF = InstanceRef(TenantId("acme"), PoolId("workers"), InstanceId("i-1a2b3c4d"))
OTHER = InstanceRef(TenantId("acme"), PoolId("workers"), InstanceId("i-00000002"))
MIB = 1 << 20
FIRST, SECOND = "request-1", "request-2"


class World(Protocol):
    """A subject, a VMM that writes snapshots, and a filesystem that fills up."""

    @property
    def images(self) -> Images: ...
    def fill_up(self) -> None: ...


class Memory:
    def __init__(self, layout: Layout) -> None:
        self.images = FakeImages(layout)

    def fill_up(self) -> None:
        self.images.free_bytes = 10


class Disk:
    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.images = DiskImages(layout, reserve_bytes=0)

    def fill_up(self) -> None:
        self.images = DiskImages(self.layout, reserve_bytes=1 << 60)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "state")


@pytest.fixture
def images(layout: Layout) -> DiskImages:
    return DiskImages(layout, reserve_bytes=0)


@pytest.fixture(params=[Memory, Disk])
def world(request: pytest.FixtureRequest, layout: Layout) -> World:
    subject: World = request.param(layout)
    return subject


def snapshot(layout: Layout, ref: InstanceRef = REF, *, memory: bytes = b"memory") -> ImageFiles:
    """What a VMM wrote in its jail: a memory file with a hole."""
    directory = layout.jail_base(ref) / "snapshot"
    directory.mkdir(parents=True, exist_ok=True)
    written = ImageFiles(directory / "vmstate", directory / "memory")
    written.vmstate.write_bytes(b"state of " + memory)
    with written.memory.open("wb") as file:
        file.write(memory)
        file.truncate(MIB)
    return written


def sealed(world_images: Images, layout: Layout, request_id: str, *, memory: bytes = b"m") -> None:
    written = snapshot(layout, memory=memory)
    world_images.seal(REF, request_id, written, None, {"made_by": request_id})


def made(images: Images, layout: Layout, request_id: str, *, memory: bytes = b"m") -> None:
    sealed(images, layout, request_id, memory=memory)
    images.publish(REF, request_id)


def test_an_instance_that_never_slept_has_nothing(world: World) -> None:
    assert world.images.find(REF) is None
    assert not world.images.has_files(REF)
    assert not world.images.is_complete(REF, FIRST)


def test_a_sealed_image_is_complete_but_not_found(world: World, layout: Layout) -> None:
    sealed(world.images, layout, FIRST)
    assert world.images.is_complete(REF, FIRST)
    assert not world.images.is_complete(REF, SECOND)
    assert not world.images.is_complete(OTHER, FIRST)
    assert world.images.find(REF) is None
    assert world.images.has_files(REF)


def test_sealing_moves_the_snapshot(world: World, layout: Layout) -> None:
    written = snapshot(layout)
    world.images.seal(REF, FIRST, written, None, {})
    assert not written.vmstate.exists()
    assert not written.memory.exists()


def test_a_published_image_is_found_with_its_files_and_manifest(
    world: World, layout: Layout
) -> None:
    made(world.images, layout, FIRST, memory=b"guest")
    world.images.sync(REF)
    image = world.images.find(REF)
    assert image is not None
    assert image.state is ImageState.PUBLISHED
    assert image.files.vmstate.read_bytes() == b"state of guest"
    assert image.files.memory.read_bytes() == b"guest".ljust(MIB, b"\0")
    assert image.secrets is None
    assert image.manifest["made_by"] == FIRST
    assert image.manifest["request_id"] == FIRST
    assert not world.images.is_complete(REF, FIRST)
    assert world.images.find(OTHER) is None


def test_secrets_are_copied_into_the_image(world: World, layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "secrets.ext4").write_bytes(b"secret")
    world.images.seal(REF, FIRST, snapshot(layout), tmp_path / "secrets.ext4", {})
    world.images.publish(REF, FIRST)
    image = world.images.find(REF)
    assert image is not None
    assert image.secrets is not None
    assert image.secrets.read_bytes() == b"secret"
    assert (tmp_path / "secrets.ext4").exists()


def test_sealing_again_replaces_what_the_request_sealed(world: World, layout: Layout) -> None:
    sealed(world.images, layout, FIRST, memory=b"old")
    made(world.images, layout, FIRST, memory=b"new")
    image = world.images.find(REF)
    assert image is not None
    assert image.files.vmstate.read_bytes() == b"state of new"


def test_publishing_again_is_nothing(world: World, layout: Layout) -> None:
    made(world.images, layout, FIRST)
    world.images.publish(REF, FIRST)
    assert world.images.find(REF) is not None


def test_what_was_not_sealed_cannot_be_published(world: World, layout: Layout) -> None:
    made(world.images, layout, FIRST)
    with pytest.raises(Broken) as refused:
        world.images.publish(REF, SECOND)
    assert refused.value.code == "broken/image_incomplete"
    assert world.images.find(REF) is not None


def test_a_consumed_image_stays_consumed(world: World, layout: Layout) -> None:
    assert not world.images.consumed(REF)
    made(world.images, layout, FIRST)
    assert not world.images.consumed(REF)
    for _ in range(2):
        world.images.consume(REF)
        assert world.images.consumed(REF)
        image = world.images.find(REF)
        assert image is not None
        assert image.state is ImageState.CONSUMED


def test_there_is_nothing_to_consume_without_an_image(world: World, layout: Layout) -> None:
    sealed(world.images, layout, FIRST)
    with pytest.raises(Conflict) as refused:
        world.images.consume(REF)
    assert refused.value.code == "conflict/no_image"


def test_a_new_image_takes_the_place_of_a_consumed_one(world: World, layout: Layout) -> None:
    made(world.images, layout, FIRST, memory=b"old")
    world.images.consume(REF)
    made(world.images, layout, SECOND, memory=b"new")
    image = world.images.find(REF)
    assert image is not None
    assert image.state is ImageState.PUBLISHED
    assert not world.images.consumed(REF)
    assert image.files.vmstate.read_bytes() == b"state of new"
    world.images.discard(REF)
    assert not world.images.has_files(REF)


@pytest.mark.parametrize("which", ["vmstate", "memory"])
def test_an_image_of_other_size_than_it_was_made_is_damaged(
    world: World, layout: Layout, which: str
) -> None:
    made(world.images, layout, FIRST)
    image = world.images.find(REF)
    assert image is not None
    path: Path = getattr(image.files, which)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(Lost) as lost:
        world.images.find(REF)
    assert lost.value.code == "lost/image_damaged"
    assert world.images.has_files(REF)
    world.images.discard(REF)
    assert world.images.find(REF) is None


def test_discarding_takes_published_and_partial_alike(world: World, layout: Layout) -> None:
    made(world.images, layout, FIRST)
    sealed(world.images, layout, SECOND)
    for _ in range(2):
        world.images.discard(REF)
        assert not world.images.has_files(REF)
        assert world.images.find(REF) is None
        assert not world.images.is_complete(REF, SECOND)


def test_discarding_spares_other_instances(world: World, layout: Layout) -> None:
    world.images.seal(OTHER, FIRST, snapshot(layout, OTHER), None, {})
    made(world.images, layout, FIRST)
    world.images.discard(REF)
    assert world.images.is_complete(OTHER, FIRST)


def test_room_is_there_or_missing_by_so_many_bytes(world: World) -> None:
    world.fill_up()
    with pytest.raises(Transient) as refused:
        world.images.reserve(REF, FIRST, MIB)
    assert refused.value.code == "transient/no_space"
    assert set(refused.value.facts) == {"needed_bytes", "free_bytes"}
    assert not world.images.has_files(REF)


# ------------------------------------------------------------------ only a filesystem can show


def test_images_are_roots_alone(images: DiskImages, layout: Layout) -> None:
    layout.images(REF).mkdir(parents=True, mode=0o755)
    written = snapshot(layout)
    written.memory.chmod(0o666)
    if os.geteuid() == 0:
        os.chown(written.memory, 4242, 4242)
    images.seal(REF, FIRST, written, None, {})
    images.publish(REF, FIRST)
    image = images.find(REF)
    assert image is not None
    assert layout.images(REF).stat().st_mode & 0o777 == 0o700
    for path in image.files.memory.parent.iterdir():
        seen = path.stat()
        assert (seen.st_uid, seen.st_mode & 0o777) == (os.geteuid(), 0o600), path


def test_the_memory_keeps_its_holes_and_inode(images: DiskImages, layout: Layout) -> None:
    written = snapshot(layout)
    before = written.memory.stat()
    images.seal(REF, FIRST, written, None, {})
    images.publish(REF, FIRST)
    image = images.find(REF)
    assert image is not None
    assert image.files.memory.stat().st_ino == before.st_ino
    assert image.files.memory.stat().st_blocks == before.st_blocks


def test_a_vmstate_of_the_same_size_but_other_bytes_is_damaged(
    images: DiskImages, layout: Layout
) -> None:
    made(images, layout, FIRST)
    path = layout.images(REF) / "sleep" / "vmstate.bin"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(Lost, match="digest"):
        images.find(REF)


def test_the_memory_has_a_digest_only_if_configured(layout: Layout) -> None:
    for digest_memory in (False, True):
        images = DiskImages(layout, digest_memory=digest_memory)
        made(images, layout, FIRST)
        with (layout.images(REF) / "sleep" / "mem.bin").open("r+b") as file:
            file.write(b"x")
        assert images.find(REF) is not None
        assert bool(images.verify(REF)) is digest_memory
        images.discard(REF)


@pytest.mark.parametrize("raw", [None, b"", b"{}", b'{"files":[]}', b'{"files":{}}'])
def test_an_image_without_a_usable_manifest_is_damaged(
    images: DiskImages, layout: Layout, raw: bytes | None
) -> None:
    made(images, layout, FIRST)
    manifest = layout.images(REF) / "sleep" / "manifest.json"
    manifest.unlink()
    if raw is not None:
        manifest.write_bytes(raw)
    with pytest.raises(Lost):
        images.find(REF)


@pytest.mark.parametrize("trick", ["symlink", "fifo", "directory", "hard link"])
def test_a_vmm_cannot_pass_off_something_else_as_its_snapshot(
    images: DiskImages, layout: Layout, tmp_path: Path, trick: str
) -> None:
    target = tmp_path / "shadow"
    target.write_bytes(b"root's")
    target.chmod(0o640)
    written = snapshot(layout)
    written.memory.unlink()
    match trick:
        case "symlink":
            written.memory.symlink_to(target)
        case "fifo":
            os.mkfifo(written.memory)
        case "directory":
            written.memory.mkdir()
        case _:
            written.memory.hardlink_to(target)
    with pytest.raises((Broken, OSError)):
        images.seal(REF, FIRST, written, None, {})
    assert target.stat().st_mode & 0o777 == 0o640
    assert not images.is_complete(REF, FIRST)
    images.discard(REF)
    assert target.read_bytes() == b"root's"


def test_the_generation_of_a_killed_attempt_is_made_again(
    images: DiskImages, layout: Layout
) -> None:
    partial = layout.images(REF) / f"partial-{FIRST}"
    partial.mkdir(parents=True)
    (partial / "mem.bin").write_bytes(b"half")
    (partial / "secrets.ext4").write_bytes(b"old")
    assert not images.is_complete(REF, FIRST)
    assert images.has_files(REF)
    made(images, layout, FIRST)
    image = images.find(REF)
    assert image is not None
    assert image.secrets is None


class Killed(BaseException):
    """The process ends here."""


EFFECTS = ("rename", "exchange", "remove", "sync_directory", "sync", "write")


def killed_before_effect(monkeypatch: pytest.MonkeyPatch, number: int) -> Callable[[], bool]:
    """From now on the `number`-th effect on files is never made; returns whether that came."""
    seen = 0

    def wrap(effect: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: object, **options: object) -> None:
            nonlocal seen
            seen += 1
            if seen >= number:
                raise Killed
            effect(*args, **options)

        return counted

    for name in EFFECTS:
        monkeypatch.setattr(files, name, wrap(getattr(files, name)))
    return lambda: seen >= number


@pytest.mark.parametrize("number", range(1, 9))
def test_a_kill_while_replacing_leaves_the_old_image_or_the_new_one(
    images: DiskImages, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made(images, layout, FIRST, memory=b"old")
    images.consume(REF)
    sealed(images, layout, SECOND, memory=b"new")
    with monkeypatch.context() as patch:
        killed_before_effect(patch, number)
        with suppress(Killed):
            images.publish(REF, SECOND)
    image = images.find(REF)
    assert image is not None
    expected = {ImageState.CONSUMED: FIRST, ImageState.PUBLISHED: SECOND}
    assert image.manifest["request_id"] == expected[image.state]
    images.publish(REF, SECOND)
    after = images.find(REF)
    assert after is not None
    assert (after.state, after.manifest["request_id"]) == (ImageState.PUBLISHED, SECOND)
    assert [path.name for path in layout.images(REF).iterdir()] == ["sleep"]


@pytest.mark.parametrize("number", range(1, 9))
def test_a_kill_while_discarding_never_leaves_half_an_image_to_be_found(
    images: DiskImages, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    made(images, layout, FIRST)
    sealed(images, layout, SECOND)
    with monkeypatch.context() as patch:
        killed_before_effect(patch, number)
        with suppress(Killed):
            images.discard(REF)
    image = images.find(REF)
    assert image is None or image.state is ImageState.PUBLISHED
    images.discard(REF)
    assert not images.has_files(REF)
    assert list(layout.images(REF).iterdir()) == []


@pytest.mark.parametrize("number", range(1, 9))
def test_a_kill_while_sealing_leaves_nothing_to_be_found_and_nothing_in_the_way(
    images: DiskImages, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        struck = killed_before_effect(patch, number)
        with suppress(Killed):
            sealed(images, layout, FIRST, memory=b"one")
    if not struck():
        assert images.is_complete(REF, FIRST)
    assert images.find(REF) is None
    made(images, layout, FIRST, memory=b"two")
    image = images.find(REF)
    assert image is not None
    assert image.files.vmstate.read_bytes() == b"state of two"


def test_a_half_deleted_image_is_never_found(
    images: DiskImages, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(images, layout, FIRST)

    def dies_half_way(path: Path) -> None:
        if path.exists():
            (path / "mem.bin").unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files, "delete", dies_half_way)
        with pytest.raises(Killed):
            images.discard(REF)
    assert images.find(REF) is None
    assert images.has_files(REF)


def test_a_full_filesystem_seals_nothing(
    layout: Layout, small_tmpfs: Callable[[int], Path], tmp_path: Path
) -> None:
    layout = Layout(small_tmpfs(512))
    images = DiskImages(layout, reserve_bytes=0)
    (tmp_path / "secrets").write_bytes(os.urandom(MIB))
    with pytest.raises(HostdError) as refused:
        images.seal(REF, FIRST, snapshot(layout), tmp_path / "secrets", {})
    assert refused.value.code == "transient/no_space"
    assert not images.is_complete(REF, FIRST)


def test_the_manifest_names_sizes_and_digests(images: DiskImages, layout: Layout) -> None:
    made(images, layout, FIRST)
    raw = (layout.images(REF) / "sleep" / "manifest.json").read_bytes()
    described = msgspec.json.decode(raw)["files"]
    assert described["mem.bin"] == {"size_bytes": MIB}
    assert described["vmstate.bin"]["size_bytes"] == len(b"state of m")
    assert len(described["vmstate.bin"]["sha256"]) == 64


def test_a_seal_cannot_hide_what_the_caller_says_of_another_request(
    images: DiskImages, layout: Layout
) -> None:
    images.seal(REF, FIRST, snapshot(layout), None, {"request_id": SECOND})
    assert images.is_complete(REF, FIRST)
