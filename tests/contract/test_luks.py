"""What every `Disks` promises of encrypted disks; then what only a kernel can show."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from enqueue.requests import InstanceId, PoolId, TenantId
from tests.fakes.disks import FakeDisks
from worker.errors import Conflict, HostdError, Transient
from worker.host.disks import luks
from worker.host.disks.disks import Ext4Disks
from worker.host.firecracker.jail.files import files_of
from worker.host.firecracker.jail.jail import Jail
from worker.linux import device_mapper as mapper
from worker.linux import luks_header
from worker.model.names import InstanceRef
from worker.ports import CryptSpec, Disks, DiskSpec, Drive, VmSpec

SIZE_MIB = 32
UID = 54_321
REAL = pytest.param("ext4", marks=[pytest.mark.root, pytest.mark.dm])


@pytest.fixture
def spec(tmp_path: Path) -> CryptSpec:
    key = tmp_path / "acme.key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    name = f"mvm-test-{os.getpid()}-{os.urandom(4).hex()}"
    return CryptSpec(tmp_path / "volumes" / "data.ext4", name, key)


@pytest.fixture
def real(device_mapper: None, disk_runtime: Path, spec: CryptSpec) -> Iterator[Ext4Disks]:
    disks = Ext4Disks(disk_runtime, secrets_size_mib=64)
    yield disks
    disks.close_crypt(spec.mapper)
    disks.close()


@pytest.fixture(params=["fake", REAL])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Disks:
    if request.param == "fake":
        return FakeDisks(tmp_path / "run")
    subject: Disks = request.getfixturevalue("real")
    return subject


def make(disks: Disks, spec: CryptSpec) -> None:
    disks.make_crypt(spec, size_mib=SIZE_MIB, label="mvm-data")


def other_key(spec: CryptSpec, content: bytes) -> CryptSpec:
    key = spec.key.with_name("other.key")
    key.write_bytes(content)
    key.chmod(0o600)
    return replace(spec, key=key)


def code(error: pytest.ExceptionInfo[HostdError]) -> str:
    return error.value.code


def test_nothing_is_there_at_first(disks: Disks, spec: CryptSpec) -> None:
    assert disks.crypt_label(spec.path) is None
    assert not disks.crypt_open(spec)
    assert not disks.mapped(spec.mapper)
    disks.close_crypt(spec.mapper)


def test_a_made_container_has_its_label_is_closed_and_no_plain_image(
    disks: Disks, spec: CryptSpec
) -> None:
    make(disks, spec)
    assert disks.crypt_label(spec.path) == "mvm-data"
    assert disks.label(spec.path) is None
    assert not disks.crypt_open(spec)
    assert not disks.mapped(spec.mapper)
    assert spec.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in spec.path.parent.iterdir()] == ["data.ext4"]


def test_it_opens_closes_and_opens_again(disks: Disks, spec: CryptSpec) -> None:
    make(disks, spec)
    for _ in range(2):
        disks.open_crypt(spec)
        disks.open_crypt(spec)
        assert disks.crypt_open(spec)
        assert disks.mapped(spec.mapper)
        disks.close_crypt(spec.mapper)
        disks.close_crypt(spec.mapper)
        assert not disks.crypt_open(spec)
        assert not disks.mapped(spec.mapper)


def test_a_key_that_does_not_fit_opens_nothing(disks: Disks, spec: CryptSpec) -> None:
    make(disks, spec)
    with pytest.raises(Conflict) as refused:
        disks.open_crypt(other_key(spec, os.urandom(32)))
    assert code(refused) == "conflict/wrong_key"
    assert not disks.mapped(spec.mapper)
    disks.open_crypt(spec)
    assert disks.crypt_open(spec)


def test_an_open_disk_needs_its_key_no_more(disks: Disks, spec: CryptSpec) -> None:
    make(disks, spec)
    disks.open_crypt(spec)
    spec.key.unlink()
    disks.open_crypt(spec)
    assert disks.crypt_open(spec)
    disks.close_crypt(spec.mapper)
    with pytest.raises(Conflict) as refused:
        disks.open_crypt(spec)
    assert code(refused) == "conflict/no_key"


@pytest.mark.parametrize("content", [b"", b"k" * 31, b"k" * 33])
def test_a_key_of_another_length_makes_nothing(
    disks: Disks, spec: CryptSpec, content: bytes
) -> None:
    with pytest.raises(Conflict) as refused:
        make(disks, other_key(spec, content))
    assert code(refused) == "conflict/bad_key"
    assert not disks.exists(spec.path)


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_may_read_makes_nothing(disks: Disks, spec: CryptSpec, mode: int) -> None:
    spec.key.chmod(mode)
    with pytest.raises(Conflict) as refused:
        make(disks, spec)
    assert code(refused) == "conflict/bad_key"
    assert not disks.exists(spec.path)


def test_what_is_there_is_never_formatted(disks: Disks, spec: CryptSpec) -> None:
    spec.path.parent.mkdir()
    spec.path.write_bytes(b"somebody's data")
    with pytest.raises(Conflict) as refused:
        make(disks, spec)
    assert code(refused) == "conflict/foreign_disk"
    assert spec.path.read_bytes() == b"somebody's data"


def test_a_plain_image_is_not_a_container(disks: Disks, spec: CryptSpec) -> None:
    disks.make(DiskSpec(spec.path, SIZE_MIB, "mvm-data"))
    assert disks.crypt_label(spec.path) is None
    with pytest.raises(Conflict) as refused:
        disks.open_crypt(spec)
    assert code(refused) == "conflict/missing_file"
    assert disks.label(spec.path) == "mvm-data"


def test_a_device_of_that_name_over_another_disk_is_not_it(disks: Disks, spec: CryptSpec) -> None:
    other = replace(spec, path=spec.path.with_name("other.ext4"))
    make(disks, spec)
    make(disks, other)
    disks.open_crypt(other)
    assert not disks.crypt_open(spec)
    assert disks.mapped(spec.mapper)
    with pytest.raises(Conflict) as refused:
        disks.open_crypt(spec)
    assert code(refused) == "conflict/foreign_mapper"


def test_wiping_a_container_leaves_no_keyslots_and_reports_that(
    disks: Disks, spec: CryptSpec
) -> None:
    make(disks, spec)
    disks.make(DiskSpec(spec.path.with_name("config.ext4"), 4, "mvm-config"))
    receipt = disks.wipe(spec.path.parent)
    assert not disks.exists(spec.path.parent)
    lines = {line["file"]: line for line in receipt["disks"]}
    assert lines.keys() == {"data.ext4", "config.ext4"}
    assert lines["data.ext4"]["keyslots_left"] == 0
    assert "keyslots_left" not in lines["config.ext4"]
    assert receipt["bytes"] == sum(line["bytes"] for line in receipt["disks"])


# ------------------------------------------------------------------ only a kernel can show


def loops(path: Path) -> str:
    argv = ["losetup", "--noheadings", "--associated", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def read(path: Path, length: int, at: int = 0) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, length, at)
    finally:
        os.close(fd)


def write(path: Path, content: bytes, at: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, content, at)
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.root
@pytest.mark.dm
def test_inside_is_a_clean_filesystem_of_the_size_asked_for(
    real: Ext4Disks, spec: CryptSpec
) -> None:
    make(real, spec)
    real.open_crypt(spec)
    device = mapper.DIRECTORY / spec.mapper
    with device.open("rb") as file:
        assert file.seek(0, os.SEEK_END) == SIZE_MIB << 20
    checked = subprocess.run(
        ["/usr/sbin/e2fsck", "-fn", str(device)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    listed = subprocess.run(
        ["/usr/sbin/dumpe2fs", "-h", str(device)], capture_output=True, text=True, check=True
    )
    assert "mvm-data" in listed.stdout


@pytest.mark.root
@pytest.mark.dm
def test_the_cipher_is_as_documented_and_discards_pass(real: Ext4Disks, spec: CryptSpec) -> None:
    make(real, spec)
    real.open_crypt(spec)
    argv = ["/usr/sbin/cryptsetup", "status", spec.mapper]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    rows = [line.partition(":") for line in said.splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in rows}
    assert facts["cipher"] == "aes-xts-plain64"
    assert facts["keysize"] == "512 bits"
    assert facts["sector size"] == "4096"
    assert "discards" in facts["flags"]


@pytest.mark.root
@pytest.mark.dm
def test_what_a_guest_writes_is_not_in_the_file_and_is_there_again(
    real: Ext4Disks, spec: CryptSpec
) -> None:
    make(real, spec)
    device, mark = mapper.DIRECTORY / spec.mapper, os.urandom(16) * 256
    real.open_crypt(spec)
    write(device, mark, 24 << 20)
    real.close_crypt(spec.mapper)
    assert mark[:64] not in spec.path.read_bytes()
    real.open_crypt(spec)
    assert read(device, len(mark), 24 << 20) == mark


@pytest.mark.root
@pytest.mark.dm
def test_closing_takes_the_node_and_the_loop_device_with_it(
    real: Ext4Disks, spec: CryptSpec
) -> None:
    make(real, spec)
    assert loops(spec.path) == ""
    real.open_crypt(spec)
    assert loops(spec.path) != ""
    real.close_crypt(spec.mapper)
    assert loops(spec.path) == ""
    assert not os.path.lexists(mapper.DIRECTORY / spec.mapper)


@pytest.mark.root
@pytest.mark.dm
def test_a_device_in_use_is_not_closed(real: Ext4Disks, spec: CryptSpec) -> None:
    make(real, spec)
    real.open_crypt(spec)
    with (mapper.DIRECTORY / spec.mapper).open("rb"), pytest.raises(Transient) as refused:
        real.close_crypt(spec.mapper)
    assert code(refused) == "transient/mapper_busy"
    assert real.crypt_open(spec)


@pytest.mark.root
@pytest.mark.dm
def test_a_killed_attempts_half_made_container_and_its_device_are_replaced(
    real: Ext4Disks, spec: CryptSpec
) -> None:
    half = spec.path.with_name(f".{spec.path.name}.new")
    half.parent.mkdir()
    half.touch()
    os.truncate(half, luks.DATA_AT_BYTES + (SIZE_MIB << 20))
    secret = luks.read_key(spec.key)
    luks.format_new(half, "mvm-data", secret)
    luks.open_device(half, f"{spec.mapper}.new", secret)
    assert real.mapped(spec.mapper)
    assert not real.exists(spec.path)
    make(real, spec)
    assert not real.mapped(spec.mapper)
    assert loops(half) == ""
    real.open_crypt(spec)
    assert real.crypt_open(spec)


@pytest.mark.root
@pytest.mark.dm
def test_a_failed_making_leaves_neither_file_nor_device(
    real: Ext4Disks, spec: CryptSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.host.disks.ext4._FEATURES", "no_such_feature")
    monkeypatch.setattr("worker.host.disks.ext4._WRITABLE", "no_such_feature")
    with pytest.raises(HostdError) as refused:
        make(real, spec)
    assert code(refused) == "broken/mke2fs"
    assert list(spec.path.parent.iterdir()) == []
    assert not real.mapped(spec.mapper)


@pytest.mark.root
@pytest.mark.dm
def test_a_copy_of_the_container_is_not_taken_for_it(real: Ext4Disks, spec: CryptSpec) -> None:
    make(real, spec)
    copy = replace(spec, path=spec.path.with_name("copy.ext4"))
    copy.path.write_bytes(spec.path.read_bytes())
    real.open_crypt(copy)
    assert real.crypt_open(copy)
    assert not real.crypt_open(spec)


@pytest.mark.root
@pytest.mark.dm
def test_a_jail_gets_the_device_itself_never_its_bytes(
    real: Ext4Disks, spec: CryptSpec, tmp_path: Path
) -> None:
    make(real, spec)
    real.open_crypt(spec)
    device = mapper.DIRECTORY / spec.mapper
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"kernel")
    vm = VmSpec(
        ref=InstanceRef(TenantId("acme"), PoolId("p"), InstanceId("i-00000001")),
        uid=UID, vcpus=1, mem_mib=64, kernel=kernel, boot_args="", tap="t", mac="m",
        drives=(Drive("data", device, read_only=False), Drive("ro", device, read_only=True)),
    )  # fmt: skip
    jail = Jail(tmp_path / "jail", "firecracker", "i-00000001")
    jail.build(files_of(vm), vm)
    host, seen = device.stat(), (jail.root / "data").lstat()
    assert stat.S_ISBLK(seen.st_mode)
    assert (seen.st_rdev, seen.st_uid, seen.st_gid) == (host.st_rdev, UID, UID)
    assert stat.S_IMODE(seen.st_mode) == 0o600
    assert stat.S_IMODE((jail.root / "ro").lstat().st_mode) == 0o400
    assert host.st_uid == 0
    assert jail.is_fresh(files_of(vm), vm)
    (jail.root / "data").unlink()
    os.mknod(jail.root / "data", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    assert not jail.is_fresh(files_of(vm), vm)


@pytest.mark.root
@pytest.mark.dm
def test_a_wiped_container_cannot_be_read_even_with_its_key(
    real: Ext4Disks, spec: CryptSpec
) -> None:
    make(real, spec)
    real.open_crypt(spec)
    real.close_crypt(spec.mapper)
    saved = spec.path.with_name("kept")
    saved.hardlink_to(spec.path)
    real.wipe(spec.path)
    assert not luks_header.has_magic(saved)
    assert saved.read_bytes().count(0) == saved.stat().st_size
    with suppress(HostdError):
        luks.open_device(saved, spec.mapper, luks.read_key(spec.key))
    assert not real.mapped(spec.mapper)
