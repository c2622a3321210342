"""The small images that hostd writes itself, as e2fsprogs and the kernel see them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from worker.host.disks import ext4
from worker.linux import ext4_image
from worker.linux.ext4_image import Files

pytestmark = pytest.mark.root
MIB = 1 << 20
MANY: Files = {
    "empty": (b"", 0o600),
    "block": (b"x" * 4096, 0o640),
    "more": (os.urandom(300_001), 0o400),
    **{f"name-{number:03}": (b"y" * number, 0o644) for number in range(60)},
}


def image(path: Path, files: Files, size_mib: int) -> Path:
    with path.open("xb") as file:
        file.truncate(size_mib * MIB)
        ext4_image.write(file.fileno(), "mvm-config", files, ext4.content_uuid(files))
    return path


@pytest.mark.parametrize("files", [{}, {"one": (b"1", 0o444)}, MANY], ids=["none", "one", "many"])
@pytest.mark.parametrize("size_mib", [4, 16, 128])
def test_e2fsck_finds_nothing_to_mend(tmp_path: Path, files: Files, size_mib: int) -> None:
    made = image(tmp_path / "disk", files, size_mib)
    checked = subprocess.run(
        ["/usr/sbin/e2fsck", "-fn", made], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    seen = ext4.superblock(made)
    assert seen is not None
    assert (seen.label, seen.size_bytes) == ("mvm-config", size_mib * MIB)


def test_the_kernel_mounts_it_and_reads_the_files_as_they_were(tmp_path: Path) -> None:
    made, point = image(tmp_path / "disk", MANY, 16), tmp_path / "mounted"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-o", "loop,ro", made, point], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no loop mount can be made: {mounted.stderr.strip()}")
    try:
        names = {path.name for path in point.iterdir()}
        read = {
            name: ((point / name).read_bytes(), (point / name).stat().st_mode & 0o7777)
            for name in names - {"lost+found"}
        }
        owners = {(point / name).stat().st_uid for name in names}
    finally:
        subprocess.run(["umount", point], check=True)
    assert read == dict(MANY)
    assert names - set(MANY) == {"lost+found"}
    assert owners == {0}


def test_equal_files_give_equal_images_that_take_no_room_of_their_size(tmp_path: Path) -> None:
    one, other = (image(tmp_path / name, MANY, 16) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()
    assert one.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize("name", ["", ".", "..", "lost+found", "a/b"])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        image(tmp_path / "disk", {name: (b"", 0o400)}, 4)


@pytest.mark.parametrize(
    "files",
    [{"large": (bytes(5 * MIB), 0o400)}, {f"{n:0250}": (b"", 0o400) for n in range(20)}],
    ids=["content", "names"],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, files: Files) -> None:
    with pytest.raises(ext4_image.NoRoomError):
        image(tmp_path / "disk", files, 4)
