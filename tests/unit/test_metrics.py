"""Metrics that are set from results and from what is on record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enqueue.requests import (
    InstanceId,
    PoolId,
    SleepInstance,
    StartInstance,
    TenantId,
    WakeInstance,
)
from tests.fakes.world import World

IDS: Any = {
    "tenant_id": TenantId("acme"),
    "pool_id": PoolId("p"),
    "instance_id": InstanceId("i-00000001"),
}


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.tenant("acme", 7)
    world.instance("acme", "i-00000001")
    world.ask(StartInstance(**IDS), "start")
    return world


def image_bytes(world: World) -> float | None:
    return world.context.metrics.registry.get_sample_value("hostd_sleep_image_bytes")


def size_on_disk(world: World) -> int:
    (generation,) = world.images.published.values()
    return sum(size for path, size in generation.sizes.items() if path.name != "secrets")


def test_the_size_of_a_sleep_image_is_a_metric_from_its_publication_on(world: World) -> None:
    assert image_bytes(world) == 0
    world.ask(SleepInstance(**IDS), "sleep")
    assert image_bytes(world) == size_on_disk(world) > 0


def test_a_started_hostd_knows_the_size_of_the_image_made_last(world: World) -> None:
    world.ask(SleepInstance(**IDS), "sleep")
    size_bytes = size_on_disk(world)
    world.ask(SleepInstance(**IDS), "asleep-already")
    world.ask(WakeInstance(**IDS), "wake")
    world.restart()
    assert image_bytes(world) == size_bytes


def test_a_result_that_is_published_again_does_not_set_the_size_back(world: World) -> None:
    world.ask(SleepInstance(**IDS), "first")
    world.context.metrics.image_bytes.set(1)  # as a later image would
    world.ask(SleepInstance(**IDS), "first")
    assert image_bytes(world) == 1
