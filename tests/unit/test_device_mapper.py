"""The device mapper's devices are read from sysfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worker.linux import device_mapper


@pytest.fixture
def block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/sys/block, with a disk that the device mapper did not make."""
    (tmp_path / "sda").mkdir()
    monkeypatch.setattr(device_mapper, "_BLOCK", tmp_path)
    return tmp_path


def device(block: Path, number: int, name: str, uuid: str, *files: str) -> Path:
    directory = block / f"dm-{number}"
    (directory / "dm").mkdir(parents=True)
    (directory / "slaves").mkdir()
    (directory / "dev").write_text(f"253:{number}\n")
    (directory / "dm" / "name").write_text(f"{name}\n")
    (directory / "dm" / "uuid").write_text(f"{uuid}\n")
    for loop, file in enumerate(files):
        (directory / "slaves" / f"loop{loop}" / "loop").mkdir(parents=True)
        (directory / "slaves" / f"loop{loop}" / "loop" / "backing_file").write_text(f"{file}\n")
    return directory


def test_a_device_is_found_by_its_name(block: Path) -> None:
    device(block, 0, "vg-root", "LVM-1")
    device(block, 300, "mvm-acme-i-0000000a", "CRYPT-LUKS2-x", "/v/data.ext4 (deleted)")
    found = device_mapper.mapped("mvm-acme-i-0000000a")
    assert found is not None
    assert (found.number, found.uuid) == (os.makedev(253, 300), "CRYPT-LUKS2-x")
    assert device_mapper.backing_files(found) == ["/v/data.ext4 (deleted)"]
    assert device_mapper.mapped("mvm-acme") is None
    assert [each.name for each in device_mapper.devices()] == ["vg-root", "mvm-acme-i-0000000a"]


def test_a_device_without_loop_devices_has_no_files(block: Path) -> None:
    directory = device(block, 1, "vg-root", "LVM-1")
    (directory / "slaves" / "sda").mkdir()
    (found,) = device_mapper.devices()
    assert device_mapper.backing_files(found) == []


def test_a_device_that_goes_away_meanwhile_is_skipped(block: Path) -> None:
    directory = device(block, 2, "gone", "")
    (directory / "dev").unlink()
    assert list(device_mapper.devices()) == []
    assert device_mapper.backing_files(device_mapper.Mapped("gone", 0, "", block / "dm-9")) == []


def test_without_a_device_mapper_there_are_no_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_mapper, "_BLOCK", tmp_path / "none")
    assert device_mapper.mapped("any") is None
