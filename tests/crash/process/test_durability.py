"""A kill keeps the page cache, a power cut does not: what was promised is on the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from enqueue.results import Done, Failed, Result, decode_result
from tests.crash.process import invariants, seen
from tests.crash.process.disk import LoopDisk
from tests.crash.process.entry import Counting
from tests.crash.process.fuse import At, When
from tests.crash.process.operations import OPERATIONS, Operation, wake
from tests.crash.process.points import Enumeration
from tests.crash.process.powercut import MachineOnDisk
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import HOST
from worker.linux import files

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow]
MEMORY: Final = Path("/dev/shm")  # for the disk's bytes, since a disk below it would only be slower
EVERY: Final = 37  # HOSTD_POWER_CUT_EVERY=1 tries every effect
CASES: Final = ("the first Start", "Sleep", "Wake", "Destroy")


@pytest.fixture
def machine(redis_server: RedisServer) -> Iterator[MachineOnDisk]:
    directory = Path(tempfile.mkdtemp(prefix="hostd-disk-", dir=MEMORY))
    try:
        disk = LoopDisk(directory)
        try:
            with MachineOnDisk(redis_server, disk) as made:
                yield made
        finally:
            disk.close()
    finally:
        shutil.rmtree(directory)


def test_a_power_cut_loses_what_was_not_synced(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: a loop device")
    disk = LoopDisk(tmp_path)
    try:
        synced, other = disk.top / "synced", disk.top / "other"
        synced.write_text("kept")
        files.sync(synced)
        files.sync_directory(disk.top)
        other.write_text("only in memory")
        synced.rename(disk.top / "renamed")
        disk.cut_power()
        disk.power_on()
        assert [path.name for path in disk.top.iterdir() if path.is_file()] == ["synced"]
        assert synced.read_text() == "kept"
    finally:
        disk.close()


def _fresh(name: str) -> Operation:
    (operation,) = [one for one in OPERATIONS if one.name == name]
    return replace(operation, back=())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_everything_promised_survives_a_power_cut(
    name: str, machine: MachineOnDisk, capsys: pytest.CaptureFixture[str]
) -> None:
    enumeration = Enumeration(machine, _fresh(name))
    every = int(os.environ.get("HOSTD_POWER_CUT_EVERY", EVERY))
    points = range(1, len(enumeration.effects) + 1)[every // 2 :: every]
    faults = []
    for number in points:
        at = At(number, When.AFTER)
        effect = enumeration.effects[number - 1]
        faults += [f"{name}, {at} ({effect}): {what}" for what in _wrong(machine, enumeration, at)]
        enumeration.again()
    with capsys.disabled():
        of = f"every {every}th of {len(enumeration.effects)} effects"
        print(f"\n{name}: {len(points)} power cuts, {len(faults)} violations ({of})")
    assert faults == []


@pytest.mark.timeout(120)
def test_a_guest_runs_only_once_the_mark_on_its_image_is_on_the_disk(
    machine: MachineOnDisk,
) -> None:
    """hostd is killed after it marked the image, before it synced the mark; another continues.

    Checked by the order of effects, not by a power cut: here the ledger is on the same filesystem,
    and the sync of it when hostd starts also syncs the mark.
    """
    enumeration = Enumeration(machine, _fresh("Wake"))
    (marked,) = [
        number
        for number, name in enumerate(enumeration.effects, 1)
        if name.startswith("open") and name.endswith("/consumed")
    ]
    assert enumeration.begin() is not None
    machine.counted(Counting.REQUEST, At(marked, When.AFTER))
    continued = machine.counted(Counting.START)
    assert "fsync sleep" in continued[: continued.index("http PATCH /vm")], continued


def _wrong(machine: MachineOnDisk, enumeration: Enumeration, at: At) -> Iterator[str]:
    """The violations after a power cut there."""
    host, ref = machine.hostd, enumeration.ref
    ticket = enumeration.begin()
    assert ticket is not None
    begun = machine.counted(Counting.REQUEST, at)
    machine.lose_power()
    published = seen.results(host, f"{HOST}_{ticket.request_id}")
    row = host.rows("SELECT state, result FROM requests WHERE request_id = ?", ticket.request_id)
    if "ledger commit" in begun and not row:
        yield "an accepted request is lost"
    promised = [decode_result(result) for result in published]
    if promised and (not row or row[0][1] is None or decode_result(row[0][1]) not in promised):
        yield f"a published result is lost: {row}"
    yield from (f"at once: {fault}" for fault in invariants.always(host, ref))
    machine.serve()
    result = machine.answer(ticket)
    machine.rest()
    yield from invariants.at_rest(host, ref)
    yield from _ended_badly(result, promised, enumeration, begun)
    doc = seen.instance(host, ref)
    if doc is not None and doc.fields.status == "sleeping":
        woken = machine.ask(wake(ref))
        if not isinstance(woken, Done):
            yield f"the image does not wake: {woken}"
        machine.rest()


def _ended_badly(
    result: Result, promised: list[Result], enumeration: Enumeration, begun: list[str]
) -> Iterator[str]:
    """Memory may be lost only of a guest that was not saved, or had run again."""
    if promised and result not in promised:
        yield f"published {promised}, then {result}"
    if isinstance(result, Done):
        return
    if not isinstance(result, Failed) or result.failure_class != "lost":
        yield f"it ended as {result}"
    match enumeration.operation.name:
        case "Sleep" if _published(begun):
            yield f"a published image is lost: {result}"
        case "Wake" if not any("consumed" in name for name in begun):
            yield f"an image that was never loaded is lost: {result}"
        case "Sleep" | "Wake":
            return
        case other:
            yield f"{other} ended as {result}"


def _published(begun: list[str]) -> bool:
    """Whether the image was renamed to its final name, and that directory synced."""
    renamed = [number for number, name in enumerate(begun) if name.endswith("/snapshots/sleep")]
    return bool(renamed) and "fsync snapshots" in begun[renamed[0] :]
