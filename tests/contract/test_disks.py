"""What every `Disks` promises; then what only a filesystem can show."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enqueue.requests import InstanceId
from tests.fakes.disks import FakeDisks
from worker.errors import Broken, Transient
from worker.host.disks import ext4
from worker.host.disks.disks import Ext4Disks
from worker.host.disks.secrets_tmpfs import in_memory
from worker.linux import mounts, sparse
from worker.ports import Disks, DiskSpec

ONE = InstanceId("i-1a2b3c4d")
SECRET = b'{"token":"a secret that no disk may see"}'
REAL = pytest.param("ext4", marks=pytest.mark.root)


@pytest.fixture
def real(disk_runtime: Path) -> Iterator[Ext4Disks]:
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts")
    disks = Ext4Disks(disk_runtime, secrets_size_mib=64)
    yield disks
    disks.close()


@pytest.fixture(params=["fake", REAL])
def disks(request: pytest.FixtureRequest, tmp_path: Path) -> Disks:
    if request.param == "fake":
        return FakeDisks(tmp_path / "run")
    subject: Disks = request.getfixturevalue("real")
    return subject


@pytest.fixture
def config(tmp_path: Path) -> DiskSpec:
    files = {"config.json": (b'{"vcpus":1}', 0o444)}
    return DiskSpec(tmp_path / "volumes" / "config.ext4", 4, "mvm-config", mode=0o644, files=files)


@pytest.fixture
def data(tmp_path: Path) -> DiskSpec:
    return DiskSpec(tmp_path / "volumes" / "data.ext4", 64, "mvm-data")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def secrets(disks: Disks) -> DiskSpec:
    files = {"secrets.json": (SECRET, 0o400)}
    return DiskSpec(disks.secrets_path(ONE), 16, "mvm-secrets", files=files)


def test_nothing_has_no_label(disks: Disks, config: DiskSpec) -> None:
    assert disks.label(config.path) is None
    assert not disks.exists(config.path)
    assert not disks.matches(config)


def test_a_made_disk_has_its_label_and_content(disks: Disks, config: DiskSpec) -> None:
    disks.make(config)
    assert disks.exists(config.path)
    assert disks.label(config.path) == "mvm-config"
    assert disks.matches(config)
    assert config.path.stat().st_mode & 0o777 == 0o644


def test_a_disk_with_other_bytes_modes_names_label_or_size_is_not_it(
    disks: Disks, config: DiskSpec
) -> None:
    disks.make(config)
    others = [
        replace(config, files={"config.json": (b'{"vcpus":2}', 0o444)}),
        replace(config, files={"config.json": (b'{"vcpus":1}', 0o400)}),
        replace(config, files={"other.json": (b'{"vcpus":1}', 0o444)}),
        replace(config, label="mvm-other"),
        replace(config, size_mib=5),
    ]
    assert [disks.matches(other) for other in others] == [False] * len(others)


def test_making_again_replaces_what_is_there(disks: Disks, config: DiskSpec) -> None:
    disks.make(config)
    newer = replace(config, files={"config.json": (b"{}", 0o444)})
    disks.make(newer)
    assert disks.matches(newer)
    assert names(config.path.parent) == ["config.ext4"]


def test_a_file_that_is_not_an_image_has_no_label(disks: Disks, config: DiskSpec) -> None:
    config.path.parent.mkdir()
    for content in (b"", b"no image", bytes(1 << 20)):
        config.path.write_bytes(content)
        assert disks.label(config.path) is None
        assert disks.exists(config.path)
    assert disks.label(config.path.parent) is None


def test_a_truncated_image_is_not_valid(disks: Disks, data: DiskSpec) -> None:
    disks.make(data)
    assert disks.matches(data)
    os.truncate(data.path, data.path.stat().st_size - 1)
    assert disks.label(data.path) is None
    assert not disks.matches(data)


def test_a_disk_that_was_begun_is_made_of_what_was_begun(disks: Disks, data: DiskSpec) -> None:
    disks.begin(data)
    assert disks.is_begun(data)
    assert not disks.exists(data.path)
    (new,) = data.path.parent.iterdir()
    inode = new.stat().st_ino
    disks.make(data)
    assert disks.matches(data)
    assert not disks.is_begun(data)
    assert data.path.stat().st_ino == inode
    assert names(data.path.parent) == ["data.ext4"]


def test_of_an_abandoned_disk_nothing_is_left(disks: Disks, data: DiskSpec) -> None:
    disks.begin(data)
    disks.abandon(data)
    assert not disks.is_begun(data)
    assert names(data.path.parent) == []
    disks.abandon(data)
    disks.make(data)
    assert disks.matches(data)


def test_what_was_begun_for_one_size_is_not_made_the_other(disks: Disks, data: DiskSpec) -> None:
    disks.begin(data)
    larger = replace(data, size_mib=2 * data.size_mib)
    assert not disks.is_begun(larger)
    disks.make(larger)
    assert disks.matches(larger)
    assert not disks.is_begun(data)


def test_a_secrets_disk_is_made_found_and_removed(disks: Disks) -> None:
    spec = secrets(disks)
    disks.make(spec)
    assert disks.matches(spec)
    assert spec.path.stat().st_mode & 0o777 == 0o600
    disks.remove(spec.path)
    assert not disks.exists(spec.path)


def test_a_copy_has_the_same_bytes_until_either_changes(disks: Disks, tmp_path: Path) -> None:
    spec, target = secrets(disks), tmp_path / "image" / "secrets.ext4"
    disks.make(spec)
    assert not disks.same(spec.path, target)
    disks.copy(spec.path, target)
    assert disks.same(spec.path, target)
    assert disks.matches(replace(spec, path=target))
    assert target.stat().st_mode & 0o777 == 0o600
    with target.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    assert not disks.same(spec.path, target)


def test_a_secrets_disk_can_be_brought_back_from_a_copy(disks: Disks, tmp_path: Path) -> None:
    spec, image = secrets(disks), tmp_path / "secrets.ext4"
    disks.make(spec)
    disks.copy(spec.path, image)
    disks.remove(spec.path)
    disks.copy(image, spec.path)
    assert disks.same(image, spec.path)
    assert disks.matches(spec)


def test_removing_takes_files_trees_and_nothing(disks: Disks, data: DiskSpec) -> None:
    disks.make(data)
    disks.remove(data.path)
    assert not disks.exists(data.path)
    disks.make(data)
    disks.remove(data.path.parent)
    assert not disks.exists(data.path.parent)
    disks.remove(data.path)
    assert not disks.exists(data.path)


def test_removing_a_symlink_leaves_what_it_points_to(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    disks.remove(tmp_path / "link")
    assert (tmp_path / "kept").is_dir()
    assert not disks.exists(tmp_path / "link")


def test_wiping_leaves_nothing_and_reports_how(
    disks: Disks, config: DiskSpec, data: DiskSpec
) -> None:
    disks.make(config)
    disks.make(data)
    receipt = disks.wipe(data.path.parent)
    assert not disks.exists(data.path.parent)
    assert receipt["files"] == 2
    assert receipt["bytes"] > 0
    assert [line["file"] for line in receipt["disks"]] == ["config.ext4", "data.ext4"]
    assert receipt["bytes"] == sum(line["bytes"] for line in receipt["disks"])


def test_wiping_nothing_is_done_already(disks: Disks, data: DiskSpec) -> None:
    assert disks.wipe(data.path)["files"] == 0


# ------------------------------------------------------------------ only a filesystem can show


def debugfs(path: Path, command: str) -> str:
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", command, path], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.root
def test_images_are_clean_and_hold_the_files_with_their_modes_as_roots(
    real: Ext4Disks, config: DiskSpec, data: DiskSpec
) -> None:
    for spec in (config, secrets(real), data):
        real.make(spec)
        argv = ["/usr/sbin/e2fsck", "-fn", str(spec.path)]
        checked = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
    assert debugfs(config.path, "cat config.json") == '{"vcpus":1}'
    seen = debugfs(secrets(real).path, "stat secrets.json").split()
    assert seen[seen.index("Mode:") + 1] == "0400"
    assert seen[seen.index("User:") + 1] == "0"
    root = debugfs(data.path, "stat /").split()
    assert root[root.index("User:") + 1] == "0"


@pytest.mark.root
def test_a_data_disk_has_a_journal_and_takes_no_room_of_its_size(
    real: Ext4Disks, data: DiskSpec
) -> None:
    big = replace(data, size_mib=1024)
    real.make(big)
    assert big.path.stat().st_size == 1 << 30
    assert big.path.stat().st_blocks * 512 < 2 << 20
    assert "has_journal" in debugfs(big.path, "stats -h")


@pytest.mark.root
def test_a_killed_attempts_leftovers_are_replaced(real: Ext4Disks, config: DiskSpec) -> None:
    config.path.parent.mkdir()
    (config.path.parent / ".config.ext4.new").write_bytes(b"half" * 1024)
    real.make(config)
    assert names(config.path.parent) == ["config.ext4"]
    assert real.matches(config)


@pytest.mark.root
def test_a_killed_attempts_secrets_count_as_there_and_are_removed(real: Ext4Disks) -> None:
    spec = secrets(real)
    real.make(spec)
    real.remove(spec.path)
    half = spec.path.with_name(f".{spec.path.name}.new")
    half.write_bytes(SECRET)
    assert real.exists(spec.path)
    real.remove(spec.path)
    assert not real.exists(spec.path)
    assert not half.exists()


@pytest.mark.root
def test_secrets_are_in_memory_and_roots_alone(real: Ext4Disks, disk_runtime: Path) -> None:
    assert not in_memory(disk_runtime)
    real.make(secrets(real))
    directory = real.secrets_path(ONE).parent
    assert in_memory(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    line = next(
        row for row in Path("/proc/self/mounts").read_text().splitlines() if str(directory) in row
    )
    assert {"nosuid", "nodev", "noexec", "size=65536k"} <= set(line.split()[3].split(","))


@pytest.mark.root
def test_plain_secrets_are_written_below_the_secrets_directory_alone(
    real: Ext4Disks, tmp_path: Path
) -> None:
    spec, log = secrets(real), tmp_path / "trace"
    script = (
        "import sys; from pathlib import Path; from worker.host.disks.disks import Ext4Disks\n"
        "from worker.ports import DiskSpec\n"
        "files = {'secrets.json': (b'x' * 100, 0o400)}\n"
        "Ext4Disks(Path(sys.argv[1])).make(DiskSpec(Path(sys.argv[2]), 16, 's', files=files))\n"
    )
    strace = ["strace", "-f", "-o", str(log), "-e", "trace=openat,open,creat,mkdir,mkdirat"]
    argv = [sys.executable, "-B", "-c", script, str(spec.path.parent.parent), str(spec.path)]
    environ = dict(os.environ, TMPDIR=str(tmp_path))
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    subprocess.run([*strace, *argv], check=True, env=environ)
    lines = log.read_text().splitlines()
    written = [row for row in lines if ("O_WRONLY" in row or "O_RDWR" in row) and "-1 E" not in row]
    paths = [row.split('"')[1] for row in written]
    assert any(path.startswith(str(spec.path.parent)) for path in paths)
    outside = [path for path in paths if not path.startswith(str(spec.path.parent))]
    assert [path for path in outside if path not in ("/dev/null", "/dev/tty")] == []


@pytest.mark.root
def test_another_hostd_sees_the_same_secrets(real: Ext4Disks, disk_runtime: Path) -> None:
    spec = secrets(real)
    real.make(spec)
    other = Ext4Disks(disk_runtime)
    assert other.matches(spec)
    other.make(replace(spec, path=other.secrets_path(InstanceId("i-00000002"))))
    assert real.matches(spec)
    assert len(mounts.below(disk_runtime)) == 1


@pytest.mark.root
def test_many_first_secrets_at_once_share_one_mount(disk_runtime: Path, tmp_path: Path) -> None:
    both = [Ext4Disks(disk_runtime), Ext4Disks(disk_runtime)]

    def make(number: int) -> None:
        disks = both[number % 2]
        path = disks.secrets_path(InstanceId(f"i-{number:08x}"))
        disks.make(DiskSpec(path, 16, "mvm-secrets", files={"secrets.json": (SECRET, 0o400)}))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mounts.below(disk_runtime)) == 1
    assert len(list((disk_runtime / "secrets").iterdir())) == 6


@pytest.mark.root
def test_a_runtime_in_memory_gets_no_mount(small_tmpfs: Callable[[int], Path]) -> None:
    runtime = small_tmpfs(32 * 1024)
    disks = Ext4Disks(runtime)
    disks.make(secrets(disks))
    assert mounts.below(runtime) == [runtime]
    disks.close()
    assert disks.matches(secrets(disks))


@pytest.mark.root
def test_closing_unmounts_and_the_next_secret_mounts_again(
    real: Ext4Disks, disk_runtime: Path
) -> None:
    real.make(secrets(real))
    real.close()
    assert mounts.below(disk_runtime) == []
    assert not real.exists(real.secrets_path(ONE))
    real.make(secrets(real))
    assert in_memory(real.secrets_path(ONE))


@pytest.mark.root
def test_a_full_filesystem_is_no_space_and_leaves_what_was_there(
    real: Ext4Disks, config: DiskSpec, small_tmpfs: Callable[[int], Path]
) -> None:
    spec = replace(config, path=small_tmpfs(512) / "config.ext4")
    real.make(spec)
    before = spec.path.read_bytes()
    huge = replace(spec, files={"config.json": (bytes(range(256)) * 2400, 0o444)})
    with pytest.raises(Transient) as refused:
        real.make(huge)
    assert refused.value.code == "transient/no_space"
    assert spec.path.read_bytes() == before
    assert names(spec.path.parent) == ["config.ext4"]


@pytest.mark.root
def test_a_full_filesystem_takes_no_copy(
    real: Ext4Disks, tmp_path: Path, small_tmpfs: Callable[[int], Path]
) -> None:
    (tmp_path / "source").write_bytes(os.urandom(1 << 20))
    target = small_tmpfs(512) / "copy"
    with pytest.raises(Transient) as refused:
        real.copy(tmp_path / "source", target)
    assert refused.value.code == "transient/no_space"
    assert names(target.parent) == []


@pytest.mark.root
def test_files_that_do_not_fit_on_the_disk_are_refused_with_their_size(
    real: Ext4Disks, config: DiskSpec
) -> None:
    with pytest.raises(Broken) as refused:
        real.make(replace(config, files={"config.json": (os.urandom(5 << 20), 0o444)}))
    assert refused.value.code == "broken/mke2fs"
    assert "1287 blocks do not fit" in refused.value.message
    assert names(config.path.parent) == []


@pytest.mark.root
def test_copies_keep_their_holes(real: Ext4Disks, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, (64 << 20) - 3):
            file.seek(at)
            file.write(b"abc")
    real.copy(source, target)
    assert real.same(source, target)
    assert target.stat().st_blocks * 512 < 1 << 20


@pytest.mark.root
def test_wiping_empties_the_file_itself_before_its_name_goes(
    real: Ext4Disks, tmp_path: Path
) -> None:
    (tmp_path / "disk").write_bytes(os.urandom(1 << 20))
    with (tmp_path / "disk").open("rb") as held:
        receipt = real.wipe(tmp_path / "disk")
        line = {"file": "disk", "bytes": 1 << 20, "method": "punch_hole"}
        assert receipt == {"bytes": 1 << 20, "files": 1, "method": "punch_hole", "disks": [line]}
        assert held.read() == bytes(1 << 20)


@pytest.mark.root
def test_wiping_where_holes_cannot_be_punched_overwrites(
    real: Ext4Disks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "punch", lambda fd: False)
    (tmp_path / "disk").write_bytes(os.urandom(3 << 20))
    with (tmp_path / "disk").open("rb") as held:
        assert real.wipe(tmp_path / "disk")["method"] == "overwrite"
        assert held.read() == bytes(3 << 20)


@pytest.mark.root
def test_wiping_a_directory_does_not_follow_symlinks(real: Ext4Disks, tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"kept")
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "link").symlink_to(tmp_path / "kept")
    assert real.wipe(tmp_path / "volumes") == {
        "bytes": 0, "files": 0, "method": "none", "disks": [],
    }  # fmt: skip
    assert (tmp_path / "kept").read_bytes() == b"kept"


def test_a_file_name_may_not_leave_the_root_directory(tmp_path: Path) -> None:
    spec = DiskSpec(tmp_path / "disk", 4, "x", files={"../outside": (b"", 0o400)})
    with pytest.raises(ValueError, match="not a valid name"):
        Ext4Disks(tmp_path / "run").make(spec)
    assert names(tmp_path) == []


def test_a_guests_dirty_journal_or_seen_errors_do_not_unmake_an_image(
    tmp_path: Path,
) -> None:
    disks = Ext4Disks(tmp_path / "run")
    spec = DiskSpec(tmp_path / "data.ext4", 64, "mvm-data")
    disks.make(spec)
    with spec.path.open("r+b") as file:
        file.seek(1024 + 0x3A)
        file.write(b"\x02")  # not cleanly unmounted, errors seen
        file.seek(1024 + 0x60)
        incompat = file.read(1)[0]
        file.seek(1024 + 0x60)
        file.write(bytes([incompat | 0x04]))  # the journal needs recovery
    assert disks.label(spec.path) == "mvm-data"


def test_the_uuid_depends_on_where_a_name_ends_and_its_bytes_begin() -> None:
    one = ext4.content_uuid({"ab": (b"c", 0o400)})
    other = ext4.content_uuid({"a": (b"bc", 0o400)})
    assert one != other
    assert one == ext4.content_uuid({"ab": (b"c", 0o400)})


def test_a_filled_disk_that_lost_a_block_is_detected_and_made_again(
    config: DiskSpec, tmp_path: Path
) -> None:
    disks = Ext4Disks(tmp_path / "run")
    disks.make(config)
    whole = config.path.read_bytes()
    for at in [at for at in range(0, len(whole), 4096) if any(whole[at : at + 4096])]:
        with config.path.open("r+b") as file:
            file.seek(at)
            file.write(bytes(4096))
        assert not disks.matches(config), f"block at {at}"
        disks.make(config)
        assert disks.matches(config)
        assert config.path.read_bytes() == whole


def test_another_hostd_makes_its_own_disk_of_what_a_killed_one_had_begun(
    data: DiskSpec, tmp_path: Path
) -> None:
    killed, disks = Ext4Disks(tmp_path / "run"), Ext4Disks(tmp_path / "run")
    killed.begin(data)
    assert not disks.is_begun(data)
    disks.make(data)
    inode = data.path.stat().st_ino
    killed.abandon(data)
    assert disks.matches(data)
    assert data.path.stat().st_ino == inode
    check = ["fsck.ext4", "-f", "-n", str(data.path)]
    assert subprocess.run(check, check=False, capture_output=True).returncode == 0
