"""Whatever a crash or a reboot leaves, hostd brings to one of few ends: docs/recovery.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.model.recovery_cases import ALIVE, HELD_BY_THE_DEAD, Case, arrange, cases, outcome
from tests.crash.model.recovery_table import rendered
from tests.fakes.world import World
from tests.fixtures.generated import compare
from worker.ports import VmmState

DOCUMENT = Path(__file__).parents[3] / "docs" / "recovery.md"
ASLEEP = ("published",)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, str]:
    """The cell of each case, its invariants checked on the way."""
    directory = tmp_path_factory.mktemp("cases")
    return dict(_played(directory))


def _played(directory: Path) -> Iterator[tuple[Case, str]]:
    for number, case in enumerate(cases()):
        world = World(directory / str(number))
        ref = arrange(world, case)
        world.restart(rebooted=case.rebooted)
        cell = outcome(world, ref, case)
        _check(world, case)
        seen = world.seen()
        world.restart(rebooted=False)
        assert world.seen() == seen, f"{case}: another restart changed something"
        world.close()
        yield case, cell


def _check(world: World, case: Case) -> None:
    """What must hold however it ended."""
    (ref,) = world.records.docs
    doc = world.records.instance(ref)
    assert doc is not None
    status, guest = doc.fields.status, world.vmm.machine.guests.get(ref)
    image = world.images.published.get(ref)
    if case.status == "destroyed" or case.image == "damaged":
        return
    if status in ("running", "warm"):
        assert guest is not None, f"{case}: {status}, and nothing runs"
        assert guest.state is not VmmState.IDLE
        assert image is None, f"{case}: an image lies beside a running guest"
    else:
        assert guest is None, f"{case}: {status}, and a VMM lives"
    if status == "sleeping":
        assert image is not None, f"{case}: sleeping without an image"
        assert not image.consumed
    held = ref in world.vmm.machine.guests or status == "sleeping"
    memory_lives = case.vmm in (VmmState.RUNNING, VmmState.PAUSED) or case.image == "published"
    wanted = case.status in ("running", "warm", "sleeping") and case.interrupted != "StopInstance"
    if memory_lives and wanted:
        assert held, f"{case}: the guest's memory was there, and is gone"
        if guest is not None and case.vmm is not VmmState.GONE:
            assert guest.memory >= HELD_BY_THE_DEAD or case.interrupted != "none"


def test_every_state_recovers_and_stays_so(outcomes: dict[Case, str]) -> None:
    assert len(outcomes) == 7 * 5 * 5 * 5
    assert {case.vmm for case in outcomes} == {VmmState.GONE, *ALIVE}


def test_the_document_shows_the_outcomes(outcomes: dict[Case, str]) -> None:
    compare(DOCUMENT, rendered(outcomes))
