"""Durable files: whole or as they were, whatever fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from worker.errors import Broken, Transient
from worker.linux import files, safe_open


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The effects on files and directories, in order, by what they were made on."""
    seen: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(fd: int) -> None:
        seen.append(f"fsync {Path(f'/proc/self/fd/{fd}').readlink().name}")
        fsync(fd)

    def note_rename(source: Path, target: Path) -> Path:
        seen.append(f"rename {source.name} {target.name}")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    return seen


def test_a_write_is_synced_before_the_rename_and_the_directory_after(
    tmp_path: Path, synced: list[str]
) -> None:
    files.write(tmp_path / "doc", b"new")
    assert synced == ["fsync .doc.new", "rename .doc.new doc", f"fsync {tmp_path.name}"]
    assert (tmp_path / "doc").read_bytes() == b"new"


def test_a_new_file_has_the_mode_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write(tmp_path / "doc", b"", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "doc").stat().st_mode & 0o777 == 0o644


def test_a_killed_attempts_leftover_is_replaced_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / ".doc.new").symlink_to(tmp_path / "victim")
    files.write(tmp_path / "doc", b"new")
    assert (tmp_path / "victim").read_bytes() == b"kept"
    assert names(tmp_path) == ["doc", "victim"]


def test_a_symlink_in_the_files_place_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"kept")
    (tmp_path / "doc").symlink_to(tmp_path / "victim")
    files.write(tmp_path / "doc", b"new")
    assert (tmp_path / "victim").read_bytes() == b"kept"
    assert not (tmp_path / "doc").is_symlink()


@pytest.mark.root
def test_a_full_filesystem_is_no_space_and_leaves_the_old_file(
    small_tmpfs: Callable[[int], Path],
) -> None:
    full = small_tmpfs(64)
    files.write(full / "doc", b"old")
    with pytest.raises(Transient) as refused:
        files.write(full / "doc", bytes(1 << 20))
    assert refused.value.code == "transient/no_space"
    assert str(full / "doc") in refused.value.message
    assert (full / "doc").read_bytes() == b"old"
    assert names(full) == ["doc"]
    files.write(full / "doc", b"there is room again")


@pytest.mark.root
def test_a_filesystem_without_inodes_is_no_space(small_tmpfs: Callable[[int], Path]) -> None:
    full = small_tmpfs(64)

    def fill() -> None:
        for number in range(1000):
            files.write(full / f"doc{number}", b"")

    with pytest.raises(Transient) as refused:
        fill()
    assert refused.value.code == "transient/no_space"


def test_a_failed_fsync_is_final_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(tmp_path / "doc", b"old")
    calls = []

    def fails(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(Broken) as broken:
        files.write(tmp_path / "doc", b"new")
    assert broken.value.code == "broken/io_error"
    assert len(calls) == 1
    assert (tmp_path / "doc").read_bytes() == b"old"
    assert names(tmp_path) == ["doc"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_and_quotas_are_transient(tmp_path: Path, number: int) -> None:
    with pytest.raises(Transient), files.translate_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_other_errors_of_the_kernel_are_not_reworded(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), files.translate_errors(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_rename_between_directories_syncs_both(tmp_path: Path, synced: list[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "doc").write_bytes(b"")
    files.rename(tmp_path / "a" / "doc", tmp_path / "b" / "doc")
    assert synced == ["rename doc doc", "fsync b", "fsync a"]


def test_an_exchange_gives_each_the_others_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    files.exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "b") == ["a"]


def test_an_exchange_with_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        files.exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == ["a"]


def test_removal_is_synced_also_when_there_is_nothing_left(
    tmp_path: Path, synced: list[str]
) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    files.remove(tmp_path / "tree")
    files.remove(tmp_path / "tree")
    assert synced == [f"fsync {tmp_path.name}"] * 2
    files.remove(tmp_path / "gone" / "long ago")
    assert names(tmp_path) == []


def test_directories_are_made_down_the_path_each_synced_in_its_parent(
    tmp_path: Path, synced: list[str]
) -> None:
    files.make_directory(tmp_path / "a" / "b", mode=0o700)
    files.make_directory(tmp_path / "a" / "b", mode=0o700)
    assert synced == [f"fsync {tmp_path.name}", "fsync a"]
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_reading_takes_regular_files_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "doc").write_bytes(b"12345")
    assert safe_open.read(tmp_path / "doc", limit_bytes=5) == b"12345"
    assert safe_open.read(tmp_path / "none", limit_bytes=5) is None
    assert safe_open.read(tmp_path / "doc" / "none", limit_bytes=5) is None
    with pytest.raises(ValueError, match="larger"):
        safe_open.read(tmp_path / "doc", limit_bytes=4)
