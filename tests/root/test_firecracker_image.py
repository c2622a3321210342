"""What goes out of a jail and into the next: snapshots and sleep images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.test_vmm import moved, slept, until
from tests.fixtures.vmm import REF, UID, Rig
from worker.errors import Broken
from worker.host.firecracker.api.client import Api
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput

pytestmark = pytest.mark.root


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def test_an_images_files_can_be_read_but_not_written_by_the_vmm(
    driven: Rig, tmp_path: Path
) -> None:
    image = slept(driven, tmp_path / "image")
    driven.vmm.build_jail(driven.spec, image)
    for file in (image.vmstate, image.memory):
        seen = file.stat()
        assert (seen.st_uid, seen.st_gid, seen.st_mode & 0o777) == (0, UID, 0o440)


def counted(rig: Rig) -> list[int]:
    """The numbers that the guest printed in the jail of this start.

    The counting kernel prints 8 hex digits, the stand-in's guest decimal ones.
    """
    text = (rig.jail().root / "serial").read_text(errors="replace")
    assert "!" not in text, "the guest's register and memory disagree"
    lines = [line for line in text.splitlines()[:-1] if re.fullmatch("[0-9a-f]{8}|[0-9]+", line)]
    return [int(line, 16 if len(line) == 8 else 10) for line in lines]


def with_serial(rig: Rig) -> None:
    """A VMM is up whose guest's serial port is a file; it must be said before boot or load."""
    rig.vmm.spawn(rig.spec, rig.join_files)
    with Api(rig.jail().root, pid=rig.pid(), timeout_s=5) as api:
        api.put("/serial", {"serial_out_path": "/serial"})


def test_a_guest_counts_on_in_memory_and_register_across_sleep_and_wake(
    driven: Rig, tmp_path: Path
) -> None:
    driven.vmm.build_jail(driven.spec, None)
    with_serial(driven)
    driven.vmm.boot(driven.spec)
    assert until(lambda: len(counted(driven)) > 2, timeout_s=60)
    driven.vmm.pause(REF)
    image = moved(driven.vmm.snapshot(driven.spec), tmp_path / "image")
    last = counted(driven)[-1]
    driven.vmm.kill(REF, timeout_s=5)
    driven.vmm.build_jail(driven.spec, image)
    with_serial(driven)
    driven.vmm.load(driven.spec)
    driven.vmm.resume(REF)
    assert until(lambda: len(counted(driven)) > 2, timeout_s=60)
    assert last < counted(driven)[0] <= last + 3


def test_a_symlink_that_the_vmm_puts_in_the_snapshots_place_is_not_followed(
    driven: Rig, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "memory").write_bytes(b"another guest's")
    driven.up()
    (driven.jail().root / "snapshot").symlink_to(victim)
    driven.vmm.pause(REF)
    files = driven.vmm.snapshot(driven.spec)
    assert files.memory.stat().st_size == driven.spec.mem_mib << 20
    assert (victim / "memory").read_bytes() == b"another guest's"


def test_a_link_to_anothers_file_is_not_taken_for_a_snapshot(driven: Rig, tmp_path: Path) -> None:
    driven.up()
    output = SnapshotOutput(driven.jail(), UID)
    for forge in (Path.hardlink_to, Path.symlink_to):
        output.reset()
        forge(driven.jail().root / "snapshot" / "memory", driven.spec.kernel)
        with pytest.raises(Broken) as refused:
            output.collect("memory")
        assert refused.value.code == "broken/snapshot_incomplete"
