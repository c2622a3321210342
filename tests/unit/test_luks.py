"""Containers as far as no device mapper is needed: their headers, keys, command lines, erasure."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import Broken, Conflict, HostdError
from worker.host.disks import luks
from worker.host.disks.disks import Ext4Disks
from worker.linux import device_mapper as mapper
from worker.linux import files, luks_header, sparse
from worker.ports import CryptSpec, DiskSpec

SECRET = bytes(range(32))
CRYPTSETUP = pytest.mark.skipif(
    shutil.which("cryptsetup", path="/usr/sbin:/sbin") is None, reason="cryptsetup is not installed"
)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    path = tmp_path / "volumes" / "data.ext4"
    path.parent.mkdir()
    path.touch(0o600)
    os.truncate(path, luks.DATA_AT_BYTES + (4 << 20))
    luks.format_new(path, "mvm-data", SECRET)
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "acme.key"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


def argvs() -> Iterator[tuple[str, ...]]:
    path = Path("/v/-data.ext4")
    yield luks.format_argv(path, "mvm-data")
    yield luks.open_argv(path, "mvm-a-i-00000001")
    yield luks.trial_argv(path)
    yield luks.erase_argv(path)


def test_no_command_line_has_a_key_or_takes_a_path_for_an_option() -> None:
    for argv in argvs():
        assert argv[0] == "cryptsetup"
        assert argv.index("/v/-data.ext4") > argv.index("--")
        if "--key-file" in argv:
            assert argv[argv.index("--key-file") + 1] == "-"
    assert luks.close_argv("mvm-a-i-00000001") == ("cryptsetup", "close", "--", "mvm-a-i-00000001")


def test_the_format_is_that_of_the_system_before() -> None:
    argv = luks.format_argv(Path("/v/data.ext4"), "mvm-data")
    pairs = dict(itertools.pairwise(argv))
    assert pairs["--type"] == "luks2"
    assert pairs["--cipher"] == "aes-xts-plain64"
    assert pairs["--key-size"] == "512"


def test_opening_lets_discards_through() -> None:
    assert "--allow-discards" in luks.open_argv(Path("/v/data.ext4"), "name")


def test_a_key_is_its_32_bytes(key: Path) -> None:
    assert luks.read_key(key) == SECRET


@pytest.mark.parametrize("damage", ["short", "long", "group", "others", "link", "directory"])
def test_an_invalid_key_or_one_that_others_can_read_is_refused(key: Path, damage: str) -> None:
    match damage:
        case "short":
            key.write_bytes(SECRET[:-1])
        case "long":
            key.write_bytes(SECRET + b"\n")
        case "group":
            key.chmod(0o640)
        case "others":
            key.chmod(0o602)
        case "link":
            key.rename(key.with_name("real.key"))
            key.symlink_to(key.with_name("real.key"))
        case _:
            key.unlink()
            key.mkdir(0o700)
    with pytest.raises(Conflict) as refused:
        luks.read_key(key)
    assert refused.value.code == "conflict/bad_key"
    assert SECRET.hex() not in str(refused.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")
def test_a_key_of_another_user_is_refused(key: Path) -> None:
    os.chown(key, 12_345, 0)
    with pytest.raises(Conflict) as refused:
        luks.read_key(key)
    assert refused.value.code == "conflict/bad_key"


def test_a_missing_key_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(Conflict) as refused:
        luks.read_key(tmp_path / "none.key")
    assert refused.value.code == "conflict/no_key"


@pytest.mark.parametrize("content", [b"", b"LUKS\xba\xbe", b"LUKS\xba\xbe\0\2" + bytes(20_000)])
def test_a_file_that_is_not_a_container_has_no_header(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk"
    assert luks_header.read_header(path) is None
    assert luks_header.read_header(tmp_path) is None
    path.write_bytes(content)
    assert luks_header.read_header(path) is None
    assert luks_header.has_magic(path) == bool(content)


@CRYPTSETUP
def test_the_header_is_read_as_cryptsetup_made_it(container: Path) -> None:
    found = luks_header.read_header(container)
    assert found is not None
    assert (found.label, found.keyslots, found.data_at_bytes) == ("mvm-data", 1, 1 << 20)
    assert len(found.uuid) == 36
    assert luks_header.keyslots_left(container) == 1


@CRYPTSETUP
def test_a_damaged_first_copy_leaves_the_second(container: Path) -> None:
    whole = luks_header.read_header(container)
    write(container, b"?", at=4096 + 5)
    assert luks_header.read_header(container) == whole
    write(container, bytes(6), at=0)
    assert luks_header.read_header(container) == whole
    write(container, b"?", at=(16 << 10) + 4096 + 5)
    assert luks_header.read_header(container) is None
    assert luks_header.has_magic(container)


@CRYPTSETUP
def test_only_its_own_key_opens_it(container: Path) -> None:
    luks.try_key(container, SECRET)
    with pytest.raises(Conflict) as refused:
        luks.try_key(container, bytes(32))
    assert refused.value.code == "conflict/wrong_key"


@CRYPTSETUP
def test_a_refusal_by_cryptsetup_is_reported_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    with pytest.raises(Broken) as refused:
        luks.try_key(tmp_path / "disk", SECRET)
    assert refused.value.code == "broken/cryptsetup"
    assert "not a valid LUKS device" in refused.value.message


@CRYPTSETUP
def test_an_erased_container_has_no_keyslots_and_opens_no_more(container: Path) -> None:
    material = slice(32 << 10, (32 << 10) + 64 * 4000)  # the one keyslot's: 512 bits, 4000 stripes
    before = container.read_bytes()[material]
    assert luks.erase(container)
    assert luks_header.keyslots_left(container) == 0
    assert luks_header.read_header(container) is not None
    after = container.read_bytes()[material]
    assert not any(before[at : at + 512] == after[at : at + 512] for at in range(0, 256_000, 512))
    with pytest.raises(HostdError):
        luks.try_key(container, SECRET)


@CRYPTSETUP
def test_wiping_overwrites_the_header_too_and_the_receipt_names_the_method(
    container: Path, tmp_path: Path
) -> None:
    disks = Ext4Disks(tmp_path / "run")
    disks.make(DiskSpec(container.with_name("config.ext4"), 4, "mvm-config"))
    held = container.stat().st_blocks * 512
    with container.open("rb") as file:
        receipt = disks.wipe(container.parent)
        assert not any(file.read())
    assert receipt["disks"][1] == {
        "file": "data.ext4", "bytes": held, "method": "luks_erase+punch_hole", "keyslots_left": 0,
    }  # fmt: skip
    assert receipt["disks"][0]["method"] == "punch_hole"
    assert receipt["files"] == 2
    assert receipt["method"] == "luks_erase+punch_hole"
    assert not container.parent.exists()


@CRYPTSETUP
@pytest.mark.parametrize("copies", [[0], [0, 16 << 10]], ids=["first", "both"])
def test_a_container_with_a_damaged_header_is_wiped_all_the_same(
    container: Path, tmp_path: Path, copies: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in copies:
        write(container, b"?", at=at + 4096 + 5)
    monkeypatch.setattr(sparse, "punch", lambda fd: True)  # nothing but the erasure is looked at
    with container.open("rb") as file:
        (line,) = Ext4Disks(tmp_path / "run").wipe(container)["disks"]
        assert not any(file.read(luks.DATA_AT_BYTES))
    assert line["keyslots_left"] == 0
    expected = "luks_erase" if copies == [0] else "luks_overwrite"
    assert line["method"] == f"{expected}+punch_hole"


@CRYPTSETUP
def test_a_container_is_never_made_in_place_of_data(container: Path, key: Path) -> None:
    before = container.read_bytes()
    with pytest.raises(Conflict) as refused:
        Ext4Disks(container.parent / "run").make_crypt(
            CryptSpec(container, "mvm-test", key), size_mib=4, label="mvm-data"
        )
    assert refused.value.code == "conflict/foreign_disk"
    assert container.read_bytes() == before
    assert not files.aside(container).exists()


def test_without_a_device_mapper_nothing_is_open_and_nothing_is_made(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapper, "_CONTROL", tmp_path / "control")
    disks, spec = Ext4Disks(tmp_path / "run"), CryptSpec(tmp_path / "v" / "disk", "mvm-test", key)
    assert not disks.mapped("mvm-test")
    disks.close_crypt("mvm-test")
    with pytest.raises(Broken) as refused:
        disks.make_crypt(spec, size_mib=4, label="mvm-data")
    assert refused.value.code == "broken/no_device_mapper"
    assert not spec.path.parent.exists()


def write(path: Path, content: bytes, *, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
