"""An instance sleeps and wakes a hundred times: its count continues, and nothing grows.

`HOSTD_CYCLES` does more, or fewer.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from enqueue import HostClient
from enqueue.requests import DestroyInstance, Request, SleepInstance, StartInstance, WakeInstance
from enqueue.results import Done
from tests.fixtures.resource_usage import ResourceUsage, resident_kib, resource_usage
from tests.fixtures.vmm import Programs, counting_kernel, real_programs
from tests.fixtures.worker import HOST, TENANT, HostdMaker, HostdProcess, eventually, ids
from worker import simulator
from worker.demo import documents
from worker.host.firecracker.jail.jail import find_jail
from worker.model.names import InstanceRef
from worker.simulator.guest import HEAD

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]
CYCLES = int(os.environ.get("HOSTD_CYCLES", "100"))
WARM, SETTLED = 10, 20  # cycles after which nothing new is held, and memory grows no more
GROWTH_KIB = 4096  # SQLite keeps up to 2,000 KiB of a ledger that grows (PRAGMA cache_size)
MEM_MIB = 32
TICKS = 2_600_000  # of the TSC between two counts: about a millisecond
WAIT_S = 60.0


@dataclass(frozen=True)
class Counting:
    """A guest that counts: its programs, its kernel, and the count's place in its memory file."""

    programs: Programs
    kernel: bytes
    count: Callable[[Path], int]
    serial: bool = False  # all that it says is in `serial` of its jail


@pytest.fixture(
    params=["stand-in", pytest.param("real", marks=[pytest.mark.firecracker, pytest.mark.kvm])]
)
def counting(request: pytest.FixtureRequest, tmp_path: Path) -> Counting:
    """The stand-in with its guest, and the real programs with a small kernel."""
    if request.param == "stand-in":
        programs = Programs(*simulator.install(tmp_path / "programs", serial="/serial", tick_ms=1))
        return Counting(programs, b"a stand-in needs no kernel", _count_of_stand_in, serial=True)
    programs, kernel = real_programs(), counting_kernel(tmp_path, ticks=TICKS)
    at = _address(kernel, "count_mem")
    return Counting(programs, kernel.read_bytes(), lambda memory: _word(memory, at))


@pytest.fixture
def host(make_hostd: HostdMaker, counting: Counting) -> HostdProcess:
    """A running host of small guests."""
    firecracker, jailer = map(str, (counting.programs.firecracker, counting.programs.jailer))
    vmm = {"simulate": False, "firecracker": firecracker, "jailer": jailer, "console": True}
    process = make_hostd(vmm=vmm, worker={"threads": 2})
    pool = process.layout.pool(TENANT, documents.POOL) / "pool.json"
    resources = {"vcpus": 1, "mem_mib": MEM_MIB, "data_disk_mib": 64}
    pool.write_text(json.dumps(json.loads(pool.read_text()) | {"instance_resources": resources}))
    revision = process.layout.artifacts(TENANT, documents.POOL) / "current"
    (revision / "vmlinux").write_bytes(counting.kernel)
    process.start()
    return process


def _count_of_stand_in(memory: Path) -> int:
    with memory.open("rb") as file:
        return int(HEAD.unpack(file.read(HEAD.size))[2])


def _word(memory: Path, at: int) -> int:
    with memory.open("rb") as file:
        return int(struct.unpack("<I", os.pread(file.fileno(), 4, at))[0])


def _address(kernel: Path, symbol: str) -> int:
    """The symbol's place in the guest's memory, which is mapped one to one."""
    lines = subprocess.check_output(["nm", kernel], text=True).splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.split()[-1] == symbol)


def done(client: HostClient, request: Request) -> None:
    result = client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    assert result.changed


def said(text: str) -> list[int]:
    """The numbers that a stand-in's guest wrote in one life; the last line may be incomplete."""
    return [int(line) for line in text.split("\n")[:-1] if line.isdigit()]


class Sleeper:
    """One instance, its cycles, and its last count."""

    def __init__(self, hostd: HostdProcess, counting: Counting, ref: InstanceRef) -> None:
        self.client, self.hostd, self.counting, self.ref = hostd.client(), hostd, counting, ref
        self.count = 0
        done(self.client, StartInstance(**ids(ref)))

    def cycle(self) -> None:
        """Sleeps and wakes the instance; its count must continue."""
        jail = find_jail(self.hostd.layout.jail_base(self.ref), self.ref.instance_id)
        assert jail is not None
        heard = (jail.root / "serial").open() if self.counting.serial else None
        done(self.client, SleepInstance(**ids(self.ref)))
        before, self.count = self.count, self.counting.count(self._memory())
        assert self.count > before, "the guest counts on from where it was"
        if heard is not None:
            with heard:
                numbers = said(heard.read())
            assert numbers == list(range(before + 1, before + 1 + len(numbers)))
            assert numbers[-1] in (self.count, self.count - 1)
        done(self.client, WakeInstance(**ids(self.ref)))

    def _memory(self) -> Path:
        return self.hostd.layout.images(self.ref) / "sleep" / "mem.bin"


def back_to(hostd: HostdProcess, warm: ResourceUsage) -> None:
    """Waits until hostd uses what it used then.

    Raises:
        AssertionError: it does not, and what the difference is.
    """
    try:
        eventually(
            lambda: resource_usage(hostd) == warm, "hostd uses no more than before", bound_s=10
        )
    except AssertionError:
        assert resource_usage(hostd).differences(warm) == []


def test_cycles_of_sleep_and_wake_lose_no_count_and_leave_nothing_behind(
    host: HostdProcess, counting: Counting
) -> None:
    sleeper = Sleeper(host, counting, host.instance("i-0000cc01"))
    for _ in range(WARM):
        sleeper.cycle()
    warm = resource_usage(host)
    for _ in range(SETTLED - WARM):
        sleeper.cycle()
    settled_kib = resident_kib(host.pid)
    for _ in range(CYCLES - SETTLED):
        sleeper.cycle()
    held = (
        f"{warm.descriptors.total()} descriptors, {warm.threads} threads, {len(warm.files)} files"
    )
    back_to(host, warm)
    grown_kib = resident_kib(host.pid) - settled_kib
    print(f"{CYCLES} cycles to count {sleeper.count}, {grown_kib} KiB more after {SETTLED}: {held}")
    assert grown_kib <= GROWTH_KIB
    done(sleeper.client, DestroyInstance(**ids(sleeper.ref), wipe_volumes=True))
    left = resource_usage(host)
    names = (*left.groups, *left.mounts)
    assert [name for name in names if sleeper.ref.instance_id in name] == []
    assert [name for name in left.links if name.startswith("tn")] == []
