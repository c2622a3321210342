"""Uids of tenants' jails next to those that are other people's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from enqueue.requests import SetupNetwork, TenantId, TenantNet, bridge_name
from enqueue.results import Done, Failed
from tests.fakes.world import World
from worker.linux.subids import first_overlap, subid_ranges
from worker.model.names import FIRST_OFFSET, LAST_OFFSET, jail_uid

NET_ID = 100
FIRST, LAST = (jail_uid(10_000, NET_ID, offset) for offset in (FIRST_OFFSET, LAST_OFFSET))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def setup(net_id: int) -> SetupNetwork:
    third = net_id % 256
    net = TenantNet(
        tenant_net_id=net_id,
        ipv4_subnet=f"10.240.{third}.0/24",
        gateway_ip=f"10.240.{third}.1",
        bridge_name=bridge_name(net_id),
    )
    return SetupNetwork(tenant_id=TenantId("acme"), net=net)


@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_a_net_whose_uids_a_user_was_given_is_refused_naming_user_and_file(
    world: World, name: str
) -> None:
    file = world.directory / name
    file.write_text(f"# comment\nbob:{LAST}:1\n")
    result = world.ask(setup(NET_ID), "r1")
    assert isinstance(result, Failed)
    assert result.code == "rejected/uid_range"
    assert "bob's" in result.message
    assert str(file) in result.message


def test_a_range_that_is_given_out_while_hostd_runs_counts_at_once(world: World) -> None:
    assert isinstance(world.ask(setup(NET_ID), "r1"), Done)
    (world.directory / "subuid").write_text("eve:36000:65536\n")
    result = world.ask(setup(NET_ID + 2), "r2")
    assert isinstance(result, Failed)
    assert "eve" in result.message


def test_adjacent_ranges_do_not_overlap(world: World) -> None:
    (world.directory / "subuid").write_text(f"bob:0:{FIRST}\neve:{LAST + 1}:10\n")
    assert isinstance(world.ask(setup(NET_ID), "r1"), Done)


@pytest.mark.parametrize("net_id", [351, 607])
def test_nets_in_the_default_range_are_refused_without_any_file(world: World, net_id: int) -> None:
    result = world.ask(setup(net_id), "r1")
    assert isinstance(result, Failed)
    assert result.code == "rejected/uid_range"
    assert "100000..165535" in result.message


def test_the_uid_of_nobody_is_not_free() -> None:
    assert "nobody" in str(first_overlap(65_400, 65_534, ()))


def test_lines_that_give_nothing_out_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "subuid"
    file.write_text("\nbob\nbob:1\nbob:x:5\nbob:5:0\nbob:7:2:9\n1000:70:3\n")
    assert [(taken.first, taken.last) for taken in subid_ranges(file)] == [(70, 72)]
