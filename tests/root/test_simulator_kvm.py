"""A real guest in the stand-in: sleep and wake on real memory and real registers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.test_vmm import moved as kept
from tests.fixtures.simulator import Simulator, Vmm, eventually, halting_kernel
from tests.fixtures.sleeping import load_body, moved, sleep
from tests.fixtures.vmm import Programs, Rig, driver_rig
from worker import simulator as stand_in
from worker.ports import VmmState, VmSpec
from worker.simulator import kvm

pytestmark = [
    pytest.mark.root,
    pytest.mark.kvm,
    pytest.mark.skipif(not kvm.opens(), reason="/dev/kvm does not open, or makes no machine"),
]
MEM_MIB = 8
BANNERS = ("BOOT pvh", "BOOT linux64")
PVH_NOTE = (4).to_bytes(4, "little") * 2 + (18).to_bytes(4, "little") + b"Xen\0"


def counted(*texts: str) -> int:
    """How far the guest came over several lives; no number is missing, none comes twice.

    A guest whose memory and register disagree writes ` !` behind the number.
    """
    lines = "".join(texts).split("\n")[:-1]
    assert lines[:1] in ([], *([banner] for banner in BANNERS))
    assert lines[1:] == [f"{number:08x}" for number in range(1, len(lines))]
    return max(0, len(lines) - 1)


def beyond(count: int, serial: Path, *before: str) -> None:
    """Waits until the guest, now writing to the file, has counted so far and further."""
    eventually(
        lambda: serial.exists() and counted(*before, serial.read_text()) > count,
        f"a count beyond {count}",
    )


def in_memory(memory: Path, kernel: Path) -> int:
    """The count in the guest's memory, at the place that the kernel's symbol names."""
    symbols = subprocess.check_output(["nm", kernel], text=True).splitlines()
    address = next(int(line.split()[0], 16) for line in symbols if line.endswith(" count_mem"))
    with memory.open("rb") as file:
        return int.from_bytes(os.pread(file.fileno(), 4, address), "little")


@pytest.fixture
def machines(simulator: Simulator, guest_kernel: Path) -> Simulator:
    """Jails whose kernel counts, in a vCPU."""
    simulator.faults(kvm=True, serial="/serial")
    for name in "abc":
        shutil.copyfile(guest_kernel, simulator.root(name) / "kernel")
    return simulator


def slept(machines: Simulator, vmm: Vmm) -> str:
    """What the guest has written; its VMM is gone, its image is in its jail."""
    sleep(vmm)
    vmm.kill()
    machines.vmms.remove(vmm)
    return (vmm.root / "serial").read_text()


def test_counter_goes_on_by_exactly_one_over_three_lives(
    machines: Simulator, guest_kernel: Path
) -> None:
    vmm, lives = machines.boot("a", mem_size_mib=MEM_MIB), list[str]()
    for name in "bc":
        beyond(counted(*lives) + 2, vmm.root / "serial", *lives)
        lives.append(slept(machines, vmm))
        assert (vmm.root / "mem").stat().st_size == MEM_MIB << 20
        # The number is raised in memory before it is printed.
        assert in_memory(vmm.root / "mem", guest_kernel) - counted(*lives) in (0, 1)
        moved(machines, vmm, name)
        vmm = machines.start(name, "--daemonize", "--new-pid-ns")
        vmm.ok("PUT", "/snapshot/load", load_body(resume_vm=True))
    beyond(counted(*lives), vmm.root / "serial", *lives)


def test_kernel_without_the_pvh_note_starts_as_64_bit_linux(
    machines: Simulator, guest_kernel: Path
) -> None:
    whole = guest_kernel.read_bytes()
    assert PVH_NOTE in whole
    (machines.root("a") / "kernel").write_bytes(whole.replace(PVH_NOTE, bytes(16)))
    serial = machines.boot("a", mem_size_mib=MEM_MIB).root / "serial"
    beyond(1, serial)
    assert serial.read_text().startswith("BOOT linux64\n")


def test_paused_guest_stands_still_and_its_console_and_port_tell_the_count(
    machines: Simulator,
) -> None:
    vmm = machines.boot("a", mem_size_mib=MEM_MIB)
    beyond(2, vmm.root / "serial")
    for _ in range(3):
        vmm.ok("PATCH", "/vm", {"state": "Paused"})
        before = (vmm.root / "serial").read_text()
        assert vmm.ok("GET", "/")["state"] == "Paused"
        assert (vmm.root / "console").read_text() == before
        vmm.ok("PATCH", "/vm", {"state": "Resumed"})
        beyond(counted(before), vmm.root / "serial")


def test_diff_has_what_the_guest_wrote_and_does_not_load_without_its_base(
    machines: Simulator,
) -> None:
    vmm = machines.boot("a", mem_size_mib=MEM_MIB)
    beyond(1, vmm.root / "serial")
    sleep(vmm, "Diff", "1")
    vmm.ok("PATCH", "/vm", {"state": "Resumed"})
    beyond(counted((vmm.root / "serial").read_text()), vmm.root / "serial")
    before = slept_with_diff(machines, vmm)
    assert 0 < (vmm.root / "mem").stat().st_blocks * 512 < 1 << 20
    moved(machines, vmm, "b")
    fault = machines.start("b").fault("PUT", "/snapshot/load", load_body())
    assert "the memory is not that of the state" in fault
    rebase(vmm.root / "mem", vmm.root / "mem1")
    (vmm.root / "mem1").replace(vmm.root / "mem")
    moved(machines, vmm, "c")
    woken = machines.start("c")
    woken.ok("PUT", "/snapshot/load", load_body(resume_vm=True))
    beyond(counted(before), woken.root / "serial", before)


def slept_with_diff(machines: Simulator, vmm: Vmm) -> str:
    """As `slept`, with a memory file of the changed pages only."""
    sleep(vmm, "Diff")
    vmm.kill()
    machines.vmms.remove(vmm)
    return (vmm.root / "serial").read_text()


def rebase(diff: Path, base: Path) -> None:
    """The base has the diff's pages."""
    with diff.open("rb") as source, base.open("r+b") as target:
        at, size = 0, diff.stat().st_size
        while at < size:
            try:
                start = os.lseek(source.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            at = os.lseek(source.fileno(), start, os.SEEK_HOLE)
            os.pwrite(target.fileno(), os.pread(source.fileno(), at - start, start), start)


def test_file_that_is_no_kernel_is_refused_and_one_that_halts_runs(machines: Simulator) -> None:
    (machines.root("a") / "kernel").write_bytes(b"no kernel")
    vmm = machines.start("a")
    vmm.ok("PUT", "/boot-source", {"kernel_image_path": "/kernel"})
    fault = vmm.fault("PUT", "/actions", {"action_type": "InstanceStart"})
    assert fault.startswith("Start microvm error: Cannot load kernel")
    (machines.root("b") / "kernel").write_bytes(halting_kernel())
    halted = machines.boot("b", mem_size_mib=MEM_MIB)
    halted.ok("PATCH", "/vm", {"state": "Paused"})
    assert halted.ok("GET", "/")["state"] == "Paused"


@pytest.fixture
def rig(request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path) -> Iterator[Rig]:
    """hostd's driver, whose VMMs run their kernel in a vCPU."""
    programs = Programs(*stand_in.install(tmp_path / "programs", kvm=True, serial="/serial"))
    made = driver_rig(request, programs, vmm_spec, tmp_path)
    yield made
    made.clean()


def test_hostds_driver_puts_a_real_guest_to_sleep_and_wakes_it(rig: Rig, tmp_path: Path) -> None:
    rig.up()
    lives = list[str]()
    for name in ("first", "second"):
        serial = rig.jail().root / "serial"
        beyond(counted(*lives) + 2, serial, *lives)
        rig.vmm.pause(rig.ref)
        image = kept(rig.vmm.snapshot(rig.spec), tmp_path / name)
        rig.vmm.kill(rig.ref, timeout_s=5)
        lives.append(serial.read_text())
        assert in_memory(image.memory, rig.spec.kernel) - counted(*lives) in (0, 1)
        rig.vmm.build_jail(rig.spec, image)
        rig.vmm.spawn(rig.spec, rig.join_files)
        rig.vmm.load(rig.spec)
        assert rig.vmm.state(rig.ref) is VmmState.PAUSED
        rig.vmm.resume(rig.ref)
    beyond(counted(*lives), rig.jail().root / "serial", *lives)
