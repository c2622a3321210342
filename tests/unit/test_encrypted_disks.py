"""A tenant's key decides what its instances' new data disks are, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue.requests import Request
from enqueue.results import Done, Failed, Result
from tests.fakes.scenarios import DESTROY, SLEEP, START, STOP, WAKE
from tests.fakes.world import World
from worker.model.names import InstanceRef, mapper_name

REF = InstanceRef(START.tenant_id, START.pool_id, START.instance_id)
MAPPER = mapper_name(REF)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.tenant("acme", 5)
    world.instance("acme", REF.instance_id)
    yield world
    world.close()


@pytest.fixture
def keyed(world: World) -> World:
    world.key("acme")
    return world


def ask(world: World, *requests: Request) -> Result:
    results = [world.ask(request, f"r-{len(world.published)}") for request in requests]
    return results[-1]


def disk(world: World) -> Path:
    return world.layout.volumes(REF) / "data.ext4"


def opened(world: World) -> bool:
    return world.disks.mapped(MAPPER)


def test_the_device_has_the_name_that_the_system_before_gave_it() -> None:
    assert MAPPER == "mvm-acme-i-00000001"


def test_a_guest_gets_the_device_never_the_file(keyed: World) -> None:
    assert isinstance(ask(keyed, START), Done)
    assert keyed.disks.crypt_label(disk(keyed)) == "mvm-data"
    (spec,) = keyed.vmm.machine.specs.values()
    sources = {drive.id: drive.source for drive in spec.drives}
    assert sources["data"] == keyed.disks.devices / MAPPER
    assert disk(keyed) not in sources.values()


@pytest.mark.parametrize("end", [STOP, SLEEP, DESTROY], ids=["stop", "sleep", "destroy"])
def test_it_is_open_only_while_the_guest_is_there(keyed: World, end: Request) -> None:
    ask(keyed, START)
    assert opened(keyed)
    assert isinstance(ask(keyed, end), Done)
    assert not opened(keyed)


def test_wake_opens_it_again_and_makes_nothing(keyed: World) -> None:
    ask(keyed, START, SLEEP)
    before = disk(keyed).stat().st_ino
    assert isinstance(ask(keyed, WAKE), Done)
    assert opened(keyed)
    assert disk(keyed).stat().st_ino == before


@pytest.mark.parametrize("end", [STOP, SLEEP, DESTROY], ids=["stop", "sleep", "destroy"])
def test_without_its_key_a_guest_can_still_be_ended(keyed: World, end: Request) -> None:
    ask(keyed, START)
    keyed.layout.disk_key("acme").unlink()
    assert isinstance(ask(keyed, end), Done)
    assert not opened(keyed)


@pytest.mark.parametrize("prelude", [[START, STOP], [START, SLEEP]], ids=["start", "wake"])
def test_without_its_key_a_disk_is_neither_opened_nor_replaced(
    keyed: World, prelude: list[Request]
) -> None:
    ask(keyed, *prelude)
    content = disk(keyed).read_bytes()
    key = keyed.layout.disk_key("acme")
    hidden = key.rename(key.with_name("hidden"))
    begin = WAKE if SLEEP in prelude else START
    refused = ask(keyed, begin)
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/no_key"
    assert disk(keyed).read_bytes() == content
    assert keyed.vmm.machine.guests == {}
    hidden.rename(key)
    assert isinstance(ask(keyed, begin), Done)


def test_another_key_opens_nothing(keyed: World) -> None:
    ask(keyed, START, STOP)
    keyed.layout.disk_key("acme").write_bytes(b"o" * 32)
    refused = ask(keyed, START)
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/wrong_key"
    assert not opened(keyed)


def test_a_plain_disk_is_not_formatted_when_a_key_comes(world: World) -> None:
    ask(world, START, STOP)
    content = disk(world).read_bytes()
    world.key("acme")
    refused = ask(world, START)
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/plain_disk"
    assert disk(world).read_bytes() == content


def test_a_guest_that_sleeps_keeps_its_plain_disk_when_a_key_comes(world: World) -> None:
    ask(world, START, SLEEP)
    world.key("acme")
    assert isinstance(ask(world, WAKE), Done)
    assert not opened(world)
    assert isinstance(ask(world, SLEEP), Done)


def test_wiping_closes_first_and_leaves_a_receipt(keyed: World) -> None:
    ask(keyed, START)
    done = ask(keyed, DESTROY)
    assert isinstance(done, Done)
    steps = [step.name for step in done.steps]
    assert steps.index("jail_absent") < steps.index("disk_closed") < steps.index("volumes_wiped")
    lines = {line["file"]: line for line in done.detail["wiped"]["disks"]}
    assert lines["data.ext4"]["keyslots_left"] == 0
    assert not disk(keyed).exists()
