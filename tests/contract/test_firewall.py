"""What every `Firewall` promises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from enqueue.requests import bridge_name
from tests.fakes.firewall import FakeFirewall
from worker.host.firewall.firewall import Nft
from worker.model.names import guest_ip, guest_mac, tap_name
from worker.ports import Firewall, GuestRules, TenantRules


def rules(net_id: int = 5, uplink: str = "eth0") -> TenantRules:
    return TenantRules(
        tenant_id=f"tenant-{net_id}",
        tenant_net_id=net_id,
        bridge=bridge_name(net_id),
        subnet=f"10.240.{net_id}.0/24",
        gateway_ip=f"10.240.{net_id}.1",
        uplink=uplink,
        metadata_port=8169,
    )


def guest(net_id: int = 5, offset: int = 3) -> GuestRules:
    return GuestRules(
        tap=tap_name(net_id, offset),
        mac=guest_mac(net_id, offset),
        ip=guest_ip(f"10.240.{net_id}.0/24", offset),
    )


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.root)])
def firewall(request: pytest.FixtureRequest) -> Iterator[Firewall]:
    if request.param == "fake":
        yield FakeFirewall()
        return
    request.getfixturevalue("netns")
    subject = Nft()
    yield subject
    subject.close()


def test_at_first_there_are_no_rules(firewall: Firewall) -> None:
    assert not firewall.is_current(rules())
    assert firewall.tenants() == frozenset()


def test_rules_are_current_after_put(firewall: Firewall) -> None:
    firewall.put(rules())
    firewall.put(rules())
    assert firewall.is_current(rules())
    assert firewall.tenants() == {5}


@pytest.mark.parametrize(
    "other",
    [
        replace(rules(), uplink="eth1"),
        replace(rules(), uplink=""),
        replace(rules(), subnet="10.240.6.0/24"),
        replace(rules(), gateway_ip="10.240.5.2"),
        replace(rules(), metadata_port=80),
    ],
)
def test_rules_that_differ_are_not_current_until_put(
    firewall: Firewall, other: TenantRules
) -> None:
    firewall.put(rules())
    assert not firewall.is_current(other)
    firewall.put(other)
    assert firewall.is_current(other)
    assert not firewall.is_current(rules())


def test_rules_of_several_tenants_are_current(firewall: Firewall) -> None:
    # 5 and 55: the name of one bridge begins like the other's.
    for net_id in (5, 55, 0):
        firewall.put(rules(net_id))
    firewall.put(rules(5, uplink=""))
    assert firewall.is_current(rules(5, uplink=""))
    assert firewall.is_current(rules(55))
    assert firewall.is_current(rules(0))
    assert firewall.tenants() == {5, 55, 0}


def test_removing_a_tenant_leaves_the_others(firewall: Firewall) -> None:
    firewall.put(rules(5))
    firewall.put(rules(55))
    firewall.remove(5)
    firewall.remove(5)
    assert not firewall.is_current(rules(5))
    assert firewall.is_current(rules(55))
    assert firewall.tenants() == {55}


def test_removing_what_is_not_there_is_fine(firewall: Firewall) -> None:
    firewall.remove(5)
    assert firewall.tenants() == frozenset()


def test_at_first_there_are_no_guests_rules(firewall: Firewall) -> None:
    firewall.put(rules())
    assert not firewall.guest_is_current(guest())
    assert firewall.guests() == frozenset()


def test_a_guests_rules_are_current_after_put_and_its_tenants_too(firewall: Firewall) -> None:
    firewall.put(rules())
    firewall.put_guest(guest())
    firewall.put_guest(guest())
    assert firewall.guest_is_current(guest())
    assert firewall.is_current(rules())
    assert firewall.guests() == {"tn5i3"}
    assert firewall.tenants() == {5}


@pytest.mark.parametrize(
    "other", [replace(guest(), mac="02:fc:00:05:00:04"), replace(guest(), ip="10.240.5.4")]
)
def test_a_guests_rules_that_differ_are_not_current_until_put(
    firewall: Firewall, other: GuestRules
) -> None:
    firewall.put_guest(guest())
    assert not firewall.guest_is_current(other)
    firewall.put_guest(other)
    assert firewall.guest_is_current(other)
    assert not firewall.guest_is_current(guest())
    assert firewall.guests() == {"tn5i3"}


def test_removing_a_guest_leaves_the_others(firewall: Firewall) -> None:
    # The name of one TAP begins like the other's.
    firewall.put(rules())
    for offset in (3, 30, 31):
        firewall.put_guest(guest(5, offset))
    firewall.remove_guest("tn5i3")
    firewall.remove_guest("tn5i3")
    assert not firewall.guest_is_current(guest(5, 3))
    assert firewall.guest_is_current(guest(5, 30))
    assert firewall.guests() == {"tn5i30", "tn5i31"}
    assert firewall.is_current(rules())


def test_removing_the_last_guest_leaves_its_tenant(firewall: Firewall) -> None:
    firewall.put(rules())
    firewall.put_guest(guest())
    firewall.remove_guest("tn5i3")
    assert firewall.guests() == frozenset()
    assert firewall.is_current(rules())


def test_removing_a_tenant_removes_its_guests_alone(firewall: Firewall) -> None:
    for net_id in (5, 55):
        firewall.put(rules(net_id))
        firewall.put_guest(guest(net_id))
    firewall.remove(5)
    assert firewall.guests() == {"tn55i3"}
    assert firewall.guest_is_current(guest(55))
    assert firewall.is_current(rules(55))
    assert firewall.tenants() == {55}


def test_a_guest_that_its_tenant_left_behind_is_still_the_tenants(firewall: Firewall) -> None:
    firewall.put_guest(guest())
    assert firewall.tenants() == {5}
    firewall.remove(5)
    assert firewall.tenants() == frozenset()
    assert firewall.guests() == frozenset()


def test_removing_a_guest_that_is_not_there_is_fine(firewall: Firewall) -> None:
    firewall.remove_guest("tn5i3")
    assert firewall.guests() == frozenset()
