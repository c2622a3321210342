"""When a guest's clock is set forward as its image is loaded."""

from __future__ import annotations

import pytest

from enqueue.requests import InstanceId, PoolId, TenantId
from worker.errors import Broken, Transient
from worker.host.firecracker import clock
from worker.model.names import InstanceRef

ONE = InstanceRef(TenantId("acme"), PoolId("p"), InstanceId("i-00000001"))
OTHER = InstanceRef(TenantId("acme"), PoolId("p"), InstanceId("i-00000002"))
VERSION = "1.17.0"


@pytest.fixture
def stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose KVM stamps snapshots with the real time."""
    monkeypatch.setattr(clock, "_kvm_stamps", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


def chosen(clocks: clock.GuestClocks, ref: InstanceRef, version: str = VERSION) -> bool:
    with clocks.advance(ref, version) as forward:
        return forward


@pytest.mark.usefixtures("stamped")
def test_a_clock_is_set_where_firecracker_can() -> None:
    assert chosen(clock.GuestClocks(), ONE)
    assert not chosen(clock.GuestClocks(), ONE, "1.15.1")
    assert not chosen(clock.GuestClocks(), ONE, "")


def test_no_clock_is_set_where_kvm_does_not_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "_kvm_stamps", lambda: False)
    assert not chosen(clock.GuestClocks(), ONE)


@pytest.mark.usefixtures("stamped")
def test_after_a_refusal_the_next_load_of_that_guest_leaves_the_clock() -> None:
    clocks = clock.GuestClocks()
    with pytest.raises(Broken), clocks.advance(ONE, VERSION) as forward:
        raise Broken("vmm_refused", "no realtime in the snapshot")
    assert forward
    assert chosen(clocks, OTHER)
    assert not chosen(clocks, ONE)
    assert chosen(clocks, ONE), "its next image may have what this one lacked"


@pytest.mark.usefixtures("stamped")
def test_a_load_that_was_only_late_says_nothing_of_the_clock() -> None:
    clocks = clock.GuestClocks()
    with pytest.raises(Transient), clocks.advance(ONE, VERSION):
        raise Transient("vmm_timeout", "late")
    assert chosen(clocks, ONE)


@pytest.mark.parametrize("source", ["kvm-clock", "hpet", None])
def test_a_host_whose_own_clock_is_not_the_tsc_stamps_nothing(
    source: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sys") / "current_clocksource"
    if source is not None:
        path.write_text(f"{source}\n")
    monkeypatch.setattr(clock, "_CLOCKSOURCE", path)
    assert not clock.can_be_set(VERSION)
