"""Whatever the VMM's API or the disk does wrong, a request ends in a typed result, the guest runs
or its image is whole, and nothing is left over: docs/faults.md."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from enqueue.results import Failed
from tests.fixtures.diskfaults import DiskFaults
from tests.fixtures.faulty_vmm import API_TIMEOUT_S
from tests.fixtures.filesystems import LoopExt4
from tests.fixtures.generated import compare
from tests.fixtures.real_host import RealHosts
from tests.root.faults.api import API_PLANS, played_api
from tests.root.faults.disks import DISK_PLANS, played_disks
from tests.root.faults.lives import arranged, carried_out, done, mended
from tests.root.faults.table import rendered
from worker.host.firecracker import guest_calls as guest
from worker.linux import processes

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
THREADS = 4
BEFORE = {"StartInstance": "stopped", "SleepInstance": "running", "WakeInstance": "asleep"}


@pytest.fixture
def worlds(real_hosts: RealHosts, monkeypatch: pytest.MonkeyPatch) -> RealHosts:
    """Hosts whose patience with a VMM is short."""
    monkeypatch.setattr(guest, "_VCPU_TIMEOUT_S", API_TIMEOUT_S)
    return real_hosts


def test_every_fault_ends_well_and_the_document_shows_how(
    worlds: RealHosts, disk_faults: DiskFaults
) -> None:
    descriptors, began_ticks = _descriptors(), _ticks()
    with ThreadPoolExecutor(THREADS) as pool:
        disks = [pool.submit(played_disks, worlds, plan, disk_faults) for plan in DISK_PLANS]
        api = [pool.submit(played_api, worlds, plan) for plan in API_PLANS]
        rows = [row for played in (*api, *disks) for row in played.result()]
    assert _descriptors() <= descriptors, "descriptors are left open"
    assert _children(began_ticks) == [], "children are left unreaped"
    compare(DOCUMENT, rendered(rows))


@pytest.mark.parametrize("left_kib", [0, 64, 2048])
@pytest.mark.parametrize("operation", ["StartInstance", "SleepInstance", "WakeInstance"])
def test_a_filesystem_that_is_really_full_is_no_space_until_there_is_room(
    worlds: RealHosts, tmp_path: Path, operation: str, left_kib: int
) -> None:
    disk = LoopExt4(tmp_path / "disk.img", tmp_path / "w1" / "state")
    disk.at.parent.mkdir()
    disk.make(64)
    try:
        with closing(worlds()) as world:
            arranged(world, operation)
            with filled(disk.at, left_kib):
                result, guest = carried_out(world, operation), world.guest()
            if isinstance(result, Failed):
                assert result.code == "transient/no_space"
                assert guest == BEFORE[operation]
                if guest != "running":
                    assert list(world.leaks()) == []
                done(world, operation)
            else:
                assert left_kib, f"{operation} wrote nothing"
            mended(world, world.guest())
    finally:
        disk.close()


@contextmanager
def filled(directory: Path, left_kib: int) -> Iterator[None]:
    """Only so much is free on the filesystem, and nothing where that is 0."""
    filler = directory / "filler"
    with filler.open("wb") as file:
        _fill(file.fileno(), os.statvfs(directory).f_bavail * 4096 - (left_kib << 10))
    try:
        yield
    finally:
        filler.unlink()


def _fill(fd: int, size_bytes: int) -> None:
    """So many bytes are allocated, or as many as there is room for: an extent takes some itself."""
    at, step = 0, size_bytes
    while step >= 4096:
        try:
            os.posix_fallocate(fd, at, step)
            at, step = at + step, min(step, size_bytes - at - step)
        except OSError:
            step //= 2


def _descriptors() -> int:
    """How many this process has, those of what nobody holds any more apart."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def _ticks() -> int:
    """Clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def _children(since_ticks: int) -> list[str]:
    """This process's children that began since then: orphans of earlier tests may still come."""
    listed = [file.read_text().split() for file in Path("/proc/self/task").glob("*/children")]
    seen = [processes.stat(int(pid)) for pids in listed for pid in pids]
    return [child.name for child in seen if child and child.start_ticks > since_ticks]
