"""What every `Links` promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.fakes.links import FakeLinks, Foreign
from tests.fixtures.netns import ip
from worker.errors import Conflict
from worker.host.links.links import Netlink
from worker.model.names import guest_mac
from worker.ports import Bridge, Links

BRIDGE = "br-tenant-5"
MAC = guest_mac(5, 1)
ADDRESS = "10.240.5.1/24"
TAG = "hostd:acme"
TAP = "tn5i3"
TAP_TAG = "hostd:i-1a2b3c4d"


class World(Protocol):
    """A subject, and somebody else who makes devices beside it."""

    @property
    def links(self) -> Links: ...
    def make_device(self, name: str) -> None: ...
    def make_bridge(self, name: str, mac: str) -> None: ...


class Memory:
    def __init__(self) -> None:
        self.links = FakeLinks()

    def make_device(self, name: str) -> None:
        self.links.devices[name] = Foreign(name)

    def make_bridge(self, name: str, mac: str) -> None:
        self.links.devices[name] = Bridge(
            name=name, up=False, addresses=frozenset(), mac=mac, owner_tag="", forwarding=False
        )


class Kernel:
    def __init__(self) -> None:
        self.links = Netlink()

    def make_device(self, name: str) -> None:
        ip(f"link add {name} type veth peer name far-{name}")

    def make_bridge(self, name: str, mac: str) -> None:
        ip(f"link add {name} address {mac} type bridge")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        yield Memory()
        return
    request.getfixturevalue("netns")
    kernel = Kernel()
    yield kernel
    kernel.links.close()


@pytest.fixture
def links(world: World) -> Links:
    return world.links


def put_bridge(links: Links) -> None:
    links.put_bridge(BRIDGE, address=ADDRESS, mac=MAC, owner_tag=TAG)


def put_tap(links: Links, owner_uid: int = 11_283) -> None:
    links.put_tap(TAP, owner_uid=owner_uid, bridge=BRIDGE, owner_tag=TAP_TAG)


def whole_bridge() -> Bridge:
    return Bridge(
        name=BRIDGE,
        up=True,
        addresses=frozenset({ADDRESS}),
        mac=MAC,
        owner_tag=TAG,
        forwarding=True,
    )


def test_nothing_is_there_at_first(links: Links) -> None:
    assert links.bridge(BRIDGE) is None
    assert links.tap(TAP) is None
    assert links.ports(BRIDGE) == frozenset()
    assert links.owned() == {}


def test_a_bridge_is_complete_after_put(links: Links) -> None:
    put_bridge(links)
    assert links.bridge(BRIDGE) == whole_bridge()


def test_putting_a_bridge_again_changes_nothing(links: Links) -> None:
    put_bridge(links)
    put_bridge(links)
    assert links.bridge(BRIDGE) == whole_bridge()


def test_put_replaces_address_and_mac_of_our_bridge(links: Links) -> None:
    links.put_bridge(BRIDGE, address="10.240.9.1/24", mac=guest_mac(9, 1), owner_tag=TAG)
    put_bridge(links)
    assert links.bridge(BRIDGE) == whole_bridge()


def test_a_bridge_killed_at_birth_is_completed(world: World) -> None:
    world.make_bridge(BRIDGE, MAC)
    assert world.links.bridge(BRIDGE) != whole_bridge()
    put_bridge(world.links)
    assert world.links.bridge(BRIDGE) == whole_bridge()


def test_a_bridge_killed_at_birth_can_be_deleted(world: World) -> None:
    world.make_bridge(BRIDGE, MAC)
    world.links.delete(BRIDGE)
    assert world.links.bridge(BRIDGE) is None


def test_an_unmarked_bridge_with_another_mac_is_left_alone(world: World) -> None:
    world.make_bridge(BRIDGE, "02:00:00:00:00:01")
    before = world.links.bridge(BRIDGE)
    with pytest.raises(Conflict) as refused:
        put_bridge(world.links)
    assert refused.value.code == "conflict/foreign_device"
    with pytest.raises(Conflict):
        world.links.delete(BRIDGE)
    assert world.links.bridge(BRIDGE) == before


def test_a_bridge_with_another_tenants_owner_tag_is_not_changed(links: Links) -> None:
    put_bridge(links)
    with pytest.raises(Conflict):
        links.put_bridge(BRIDGE, address=ADDRESS, mac=MAC, owner_tag="hostd:other")
    assert links.bridge(BRIDGE) == whole_bridge()


@pytest.mark.parametrize("name", [BRIDGE, TAP])
def test_a_device_of_another_kind_is_left_alone(world: World, name: str) -> None:
    put_bridge(world.links)
    world.links.delete(name)
    world.make_device(name)
    with pytest.raises(Conflict) as refused:
        put_bridge(world.links) if name == BRIDGE else put_tap(world.links)
    assert refused.value.code == "conflict/foreign_device"
    with pytest.raises(Conflict):
        world.links.bridge(name) if name == BRIDGE else world.links.tap(name)
    with pytest.raises(Conflict):
        world.links.delete(name)


def test_a_tap_is_complete_after_put(links: Links) -> None:
    put_bridge(links)
    put_tap(links)
    put_tap(links)
    tap = links.tap(TAP)
    assert tap is not None
    assert (tap.up, tap.owner_uid, tap.bridge, tap.owner_tag) == (True, 11_283, BRIDGE, TAP_TAG)
    assert links.ports(BRIDGE) == {TAP}


def test_a_tap_of_another_owner_is_replaced(links: Links) -> None:
    put_bridge(links)
    put_tap(links, owner_uid=0)
    put_tap(links, owner_uid=11_283)
    tap = links.tap(TAP)
    assert tap is not None
    assert (tap.owner_uid, tap.bridge) == (11_283, BRIDGE)


def test_a_tap_of_another_instance_is_left_alone(links: Links) -> None:
    put_bridge(links)
    put_tap(links)
    with pytest.raises(Conflict) as refused:
        links.put_tap(TAP, owner_uid=1, bridge=BRIDGE, owner_tag="hostd:i-ffffffff")
    assert refused.value.code == "conflict/foreign_device"
    tap = links.tap(TAP)
    assert tap is not None
    assert tap.owner_uid == 11_283


def test_a_tap_needs_its_bridge(links: Links) -> None:
    with pytest.raises(Conflict) as refused:
        put_tap(links)
    assert refused.value.code == "conflict/no_bridge"
    assert links.tap(TAP) is None


def test_owned_lists_only_devices_with_an_owner_tag(world: World) -> None:
    world.make_device("other0")
    put_bridge(world.links)
    put_tap(world.links)
    assert world.links.owned() == {BRIDGE: TAG, TAP: TAP_TAG}


def test_deleting_is_complete_and_repeatable(links: Links) -> None:
    put_bridge(links)
    put_tap(links)
    for name in (TAP, BRIDGE, TAP, BRIDGE):
        links.delete(name)
    assert links.owned() == {}
    assert links.tap(TAP) is None
    assert links.bridge(BRIDGE) is None


def test_deleting_a_bridge_keeps_its_taps(links: Links) -> None:
    put_bridge(links)
    put_tap(links)
    links.delete(BRIDGE)
    tap = links.tap(TAP)
    assert tap is not None
    assert tap.bridge is None


def test_forwarding_is_off_until_enabled(links: Links) -> None:
    assert links.forwarding() is False
    links.enable_forwarding()
    links.enable_forwarding()
    assert links.forwarding() is True
