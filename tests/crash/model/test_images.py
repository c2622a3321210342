"""What a host has, or a pool wants, that forbids a sleep or a wake: refused before anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enqueue.results import Done, Failed, Result
from tests.fakes.scenarios import SLEEP, START, WAKE, prepare
from tests.fakes.world import World
from worker.ports import VmmState


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def failed(result: Result, code: str) -> Failed:
    assert isinstance(result, Failed), result
    assert result.code == code
    return result


def test_another_processor_cannot_wake_the_guest_and_the_right_one_still_can(world: World) -> None:
    prepare(world, [START, SLEEP])
    before, right = world.seen(), world.vmm.machine.platform
    world.vmm.machine.platform = replace(right, cpu_model="99", snapshot_format="9.0.0")
    refused = failed(world.ask(WAKE, "r-1"), "conflict/image_incompatible")
    assert "cpu model was 17, is 99" in refused.message
    assert "snapshot format" in refused.message
    assert world.seen() == before
    world.vmm.machine.platform = replace(right, boot_id="another", kernel="6.12.99")
    assert isinstance(world.ask(WAKE, "r-2"), Done)


def test_a_newer_firecracker_wakes_what_an_older_one_saved(world: World) -> None:
    prepare(world, [START, SLEEP])
    world.vmm.machine.platform = replace(
        world.vmm.machine.platform, firecracker_version="1.17.0", snapshot_format="10.4.0"
    )
    assert isinstance(world.ask(WAKE, "r"), Done)


def test_a_pool_that_wants_diffs_keeps_its_guests_awake(world: World) -> None:
    prepare(world, [START])
    world.change_pool("acme", snapshot_type="Diff")
    before = world.seen()
    refused = failed(world.ask(SLEEP, "r"), "conflict/diff_unsupported")
    assert "snapshot_type" in refused.hint
    assert world.seen() == before


@pytest.mark.parametrize("full", ["vmm", "images"])
def test_a_full_disk_stops_a_sleep_before_the_guest_is_paused(world: World, full: str) -> None:
    prepare(world, [START])
    before = world.seen()
    if full == "vmm":
        world.vmm.machine.free_bytes = 10
    else:
        world.images.free_bytes = 10
    failed(world.ask(SLEEP, "r"), "transient/no_space")
    assert "vmm.pause" not in world.fuse.seen
    assert world.seen() == before
    assert list(world.seen()["guests"].values()) == [VmmState.RUNNING]


def test_an_image_in_delta_form_is_not_an_image(world: World) -> None:
    prepare(world, [])
    ref = world.instance("acme", "i-00000001", "sleeping")
    delta = world.layout.images(ref) / "delta"
    delta.mkdir(parents=True)
    refused = failed(world.ask(WAKE, "r"), "conflict/no_image")
    assert "delta" in refused.hint
    assert delta.is_dir()


def test_a_damaged_compressed_image_is_lost_before_anything_is_built(world: World) -> None:
    prepare(world, ["zstd", START, SLEEP])
    (generation,) = world.images.published.values()
    generation.packed = b"no memory"
    failed(world.ask(WAKE, "r"), "lost/image_damaged")
    seen = world.seen()
    assert (seen["guests"], seen["jails"]) == ({}, [])
