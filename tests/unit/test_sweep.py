"""The sweep over a fake machine and the real ledger: what it takes, and what it leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import (
    DestroyInstance,
    StartInstance,
    StopInstance,
    TenantId,
)
from tests.fakes.images import Generation
from tests.fakes.leftovers import GHOST, GONE, GRACE_S, LIMITS, ONE, Sweeps, bare, leave_everything
from tests.fakes.links import Foreign
from tests.fakes.world import World, net
from worker.errors import Transient
from worker.model.names import InstanceRef
from worker.ports import Bridge, Tap, VmmState
from worker.protocol.events import Kind
from worker.sweep.history import SweepHistory
from worker.sweep.orphans import (
    Inconsistency,
    InstanceStatus,
    Records,
    Resource,
    inconsistencies,
    missing_confinement,
    orphans,
)
from worker.sweep.removal import SweepContext, sweep_instance
from worker.sweep.state_guard import accept_state, is_same_state


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.tenant("acme", 10, max_running=9, max_vcpus=9, max_mem_mib=99)
    yield world
    world.close()


def events_of(world: World, kind: str) -> list[dict[str, Any]]:
    found = [msgspec.json.decode(event) for _, event in world.ledger.outbox.unpublished()]
    return [event for event in found if event["event"] == kind]


def started(world: World, instance: str = ONE) -> InstanceRef:
    ref = world.instance("acme", instance)
    world.ask(request(StartInstance, ref), f"start-{instance}")
    return ref


def request(kind: type[Any], ref: InstanceRef) -> Any:
    return kind(tenant_id=ref.tenant_id, pool_id=ref.pool_id, instance_id=ref.instance_id)


# ------------------------------------------------------------------ leftovers


def test_leftovers_of_every_kind_are_removed_after_the_grace_period(world: World) -> None:
    ref = started(world)
    before, sweeps = bare(world), Sweeps(world)
    leave_everything(world)
    assert sweeps.kinds() == {kind.value for kind in Kind} - {"bridge", "rules"} | {"bridge"}
    for _ in range(3):
        world.now_s += GRACE_S / 2
        sweeps.once()
    world.now_s += GRACE_S
    sweeps.once()
    world.now_s += GRACE_S
    sweeps.once()
    assert sweeps.once() == ()
    assert bare(world) == before
    assert world.vmm.state(ref) is VmmState.RUNNING
    assert not world.vmm.jail_exists(GONE)
    assert [row for row in world.reservations() if GHOST in row] == []
    assert {event["kind"] for event in events_of(world, "swept")} == {k.value for k in Kind}


def test_nothing_goes_before_its_grace_period_is_over(world: World) -> None:
    leave_everything(world)
    before, sweeps = bare(world), Sweeps(world)
    sweeps.once()
    world.now_s += GRACE_S - 1
    sweeps.once()
    assert bare(world) == before
    assert events_of(world, "swept") == []


def test_an_orphan_that_was_away_in_between_gets_a_new_grace_period(world: World) -> None:
    sweeps = Sweeps(world)
    world.cgroups.put(GONE.instance_id, LIMITS)
    sweeps.once()
    world.cgroups.remove(GONE.instance_id)
    sweeps.once()
    world.cgroups.put(GONE.instance_id, LIMITS)
    world.now_s += GRACE_S
    sweeps.once()
    assert GONE.instance_id in world.cgroups.groups


def test_a_host_that_may_not_remove_still_counts(world: World) -> None:
    leave_everything(world)
    before, sweeps = bare(world), Sweeps(world, remove=False)
    sweeps.until_due()
    assert bare(world) == before
    value = world.context.metrics.registry.get_sample_value
    assert value("hostd_orphans", {"kind": "tap"}) == 1
    assert value("hostd_swept_total", {"kind": "tap"}) == 0


def test_lookalikes_without_the_mark_are_never_touched(world: World) -> None:
    world.links.devices["tn98i4"] = Tap("tn98i4", True, 1, None, "")
    world.links.devices["tn98i5"] = Tap("tn98i5", True, 1, None, "hostd:somebody")
    world.links.devices["tap9"] = Tap("tap9", True, 1, None, f"hostd:{GHOST}")
    world.links.devices["br-tenant-98"] = Bridge("br-tenant-98", True, frozenset(), "m", "", True)
    world.links.devices["docker0"] = Foreign("docker0")
    world.disks.devices.mkdir(parents=True)
    (world.disks.devices / "mvm-ghosts-backup").write_text("/srv/backup.img")
    (world.disks.devices / f"mvm-ghosts-{GHOST}").write_text("/srv/elsewhere.ext4")
    plain = world.layout.instance(GONE) / "notes"
    plain.mkdir(parents=True)
    before, sweeps = bare(world), Sweeps(world)
    sweeps.until_due()
    assert sweeps.once() == ()
    assert bare(world) == before
    assert plain.is_dir()


@pytest.mark.parametrize("status", ["running", "warm"])
def test_nothing_of_a_guest_that_lives_is_left_over(world: World, status: str) -> None:
    ref = started(world)
    if status == "warm":
        world.vmm.pause(ref)
        document = msgspec.json.decode(world.records.docs[ref])
        world.records.docs[ref] = msgspec.json.encode(document | {"status": "warm"})
    seen, sweeps = world.seen(), Sweeps(world)
    sweeps.until_due()
    assert sweeps.once() == ()
    assert world.seen() == seen


def test_nothing_that_an_unfinished_request_works_on_is_touched(world: World) -> None:
    ref = started(world)
    world.records.docs.pop(ref)
    world.begin(request(StopInstance, ref), "in-flight")
    seen, sweeps = world.seen(), Sweeps(world)
    sweeps.until_due()
    assert sweeps.once() == ()
    assert world.seen() == seen


def test_a_request_that_comes_between_look_and_removal_saves_its_instance(world: World) -> None:
    ref = started(world)
    world.records.docs.pop(ref)
    sweeps = Sweeps(world)
    sweeps.once()
    world.now_s += GRACE_S
    sweeps.sweeper.sweep()
    world.begin(request(StopInstance, ref), "just-now")
    world.executors.run()
    assert world.vmm.state(ref) is VmmState.RUNNING
    assert events_of(world, "swept") == []


def test_a_guest_whose_instance_is_gone_from_the_disk_goes_with_all_it_held(world: World) -> None:
    started(world, "i-0000000b")
    before = bare(world) | {"reservations": world.reservations()}
    ref = started(world)
    world.records.docs.pop(ref)
    sweeps = Sweeps(world)
    sweeps.until_due()
    world.now_s += GRACE_S
    sweeps.once()
    after = bare(world) | {"reservations": world.reservations()}
    after["disks"] = [disk for disk in after["disks"] if ONE not in disk]
    assert after == before
    assert world.vmm.state(ref) is VmmState.GONE
    assert world.layout.volumes(ref).exists(), "its disks are nobody's to throw away"


def test_what_is_left_of_a_destroyed_instance_goes(world: World) -> None:
    ref = started(world)
    world.ask(request(DestroyInstance, ref), "destroy")
    before = bare(world)
    world.cgroups.put(ref.instance_id, LIMITS)
    secrets = world.disks.secrets_path(ref.instance_id)
    secrets.write_bytes(b"secret")
    Sweeps(world).until_due()
    assert bare(world) == before


def test_what_lies_beside_an_instance_at_rest_goes_and_its_record_stays(world: World) -> None:
    ref = started(world)
    world.ask(request(StopInstance, ref), "stop")
    seen = world.seen()
    world.links.put_tap("tn10i3", owner_uid=1, bridge="br-tenant-10", owner_tag=f"hostd:{ONE}")
    world.cgroups.put(ref.instance_id, LIMITS)
    Sweeps(world).until_due()
    assert world.seen() == seen


def test_a_published_image_is_never_left_over(world: World) -> None:
    ref = world.instance("acme", ONE, "sleeping")
    world.images.reserve(ref, "r", 1)
    world.images.published[ref] = Generation("x", {})
    Sweeps(world).until_due()
    assert world.images.leftovers() == frozenset()
    assert ref in world.images.published


def test_one_failed_removal_stops_no_other_and_is_tried_again(world: World) -> None:
    leave_everything(world)
    world.cgroups.unkillable |= world.cgroups.pids(GONE.instance_id)
    sweeps = Sweeps(world)
    sweeps.until_due()
    assert sweeps.kinds() >= {"vmm", "cgroup", "reservation"}
    assert "tn99i3" not in world.links.devices
    world.cgroups.unkillable.clear()
    sweeps.once()
    assert GONE.instance_id not in world.cgroups.groups


def test_a_held_lock_postpones_the_removal(world: World) -> None:
    world.cgroups.put(GONE.instance_id, LIMITS)
    sweeps = Sweeps(world)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with world.context.locks.lone(GHOST, request_id="operator"):
            held.set()
            release.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    sweeps.until_due()
    assert GONE.instance_id in world.cgroups.groups
    release.set()
    holder.join()
    sweeps.once()
    assert GONE.instance_id not in world.cgroups.groups


def test_a_network_in_the_ledger_stays_though_its_tenant_has_no_document(world: World) -> None:
    started(world)
    world.records.tenants.clear()
    seen = bare(world)
    sweeps = Sweeps(world)
    sweeps.until_due()
    assert bare(world) == seen


def test_nothing_is_swept_or_reconciled_in_another_state_directory(world: World) -> None:
    ref = started(world)
    world.records.docs.clear()
    sweeps = Sweeps(world)
    sweeps.same = False
    sweeps.until_due()
    assert world.vmm.state(ref) is VmmState.RUNNING


def test_another_directory_in_the_same_boot_is_another_state(world: World) -> None:
    layout = world.layout
    assert is_same_state(world.ledger, layout, boot_id="b")
    layout.state.rename(world.directory / "moved")
    layout.state.mkdir()
    assert not is_same_state(world.ledger, layout, boot_id="b")
    assert is_same_state(world.ledger, layout, boot_id="the next boot")
    accept_state(world.ledger, layout, boot_id="the next boot")
    assert is_same_state(world.ledger, layout, boot_id="the next boot")


# ------------------------------------------------------------------ records that lie


def test_a_running_record_is_corrected_when_its_vmm_is_gone(world: World) -> None:
    ref = started(world)
    world.vmm.dies(ref)
    Sweeps(world).once()
    assert msgspec.json.decode(world.records.docs[ref])["status"] == "stopped"
    (event,) = events_of(world, "reconciled")
    assert (event["before"], event["after"]) == ("running", "stopped")


def test_a_vmm_that_its_record_does_not_know_is_reconciled(world: World) -> None:
    ref = started(world)
    document = msgspec.json.decode(world.records.docs[ref])
    world.records.docs[ref] = msgspec.json.encode(document | {"status": "ready"})
    Sweeps(world).once()
    assert world.vmm.state(ref) is VmmState.GONE
    (event,) = events_of(world, "reconciled")
    assert event["reason"] == "stray_vmm"


def test_flushed_packet_rules_are_restored_for_guests_and_for_bridges_without(
    world: World,
) -> None:
    world.tenant("lone", 11)
    world.links.put_bridge(
        "br-tenant-11", address="10.240.11.1/24", mac="m", owner_tag="hostd:lone"
    )
    started(world)
    Sweeps(world).once()
    rules, held = dict(world.firewall.rules), dict(world.firewall.guest_rules)
    assert set(rules) == {10, 11}
    world.firewall.rules.clear()
    world.firewall.guest_rules.clear()
    sweeps = Sweeps(world)
    sweeps.once()
    assert (world.firewall.rules, world.firewall.guest_rules) == (rules, held)
    restored = {event["tenant_id"] for event in events_of(world, "rules_put_back")}
    assert "lone" in restored


def test_what_reconciling_leaves_to_a_person_is_not_reconciled_again(world: World) -> None:
    ref = started(world)
    spec = world.vmm.spec(ref)
    assert spec is not None
    world.vmm.pause(ref)
    world.images.seal(ref, "r", world.vmm.snapshot(spec), None, {})
    world.images.publish(ref, "r")
    next(iter(world.images.published[ref].sizes)).unlink()
    world.vmm.dies(ref)
    sweeps = Sweeps(world)
    for _ in range(4):
        sweeps.once()
    assert [event["finding"] for event in events_of(world, "reconciled")] == ["left"]


def test_a_failed_reconciliation_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = started(world)
    world.vmm.dies(ref)
    sweeps = Sweeps(world)
    with monkeypatch.context() as broken:
        broken.setattr(world.cgroups, "kill", busy)
        sweeps.once()
        assert ref.instance_id in world.context.unreconciled
    sweeps.once()
    assert ref.instance_id not in world.context.unreconciled
    assert msgspec.json.decode(world.records.docs[ref])["status"] == "stopped"


def busy(*_: object, **__: object) -> None:
    raise Transient("cgroup_busy", "not now")


def test_a_guest_without_its_tap_is_announced_once(world: World) -> None:
    started(world)
    del world.links.devices["tn10i3"]
    sweeps = Sweeps(world)
    sweeps.once()
    sweeps.once()
    (event,) = events_of(world, "missing_confinement")
    assert event["lacks"] == "tap"


# ------------------------------------------------------------------ the core alone


def on_record(status: Any, **more: Any) -> Records:
    return Records({GONE.instance_id: InstanceStatus(GONE, status, "tn99i3", **more)})


CGROUP = Resource(Kind.CGROUP, GHOST, "p", GONE.instance_id)


@pytest.mark.parametrize(
    ("record", "is_left"),
    [
        (Records(), True),
        (on_record("destroyed"), True),
        (on_record("stopped"), True),
        (on_record("sleeping"), True),
        (on_record("stopped", vmm=True), False),
        (on_record("running"), False),
        (on_record("warm", vmm=True), False),
        (on_record(None), False),
        (Records(busy=frozenset({GONE.instance_id})), False),
    ],
)
def test_which_control_groups_are_orphans(record: Records, is_left: bool) -> None:
    assert bool(orphans([CGROUP], record)) is is_left


def test_a_running_instances_other_tap_is_left_over_and_its_own_is_not() -> None:
    taps = [Resource(Kind.TAP, name, "p", GONE.instance_id) for name in ("tn99i3", "tn99i4")]
    (left,) = orphans(taps, on_record("running", vmm=True))
    assert left.resource.name == "tn99i4"


def test_a_jail_of_another_tenants_instance_of_the_same_id_is_left_to_a_person() -> None:
    other = replace(GONE, tenant_id=TenantId("acme"))
    jail = Resource(Kind.JAIL, str(other), "p", GONE.instance_id, other)
    assert orphans([jail], on_record("destroyed")) == ()


def test_rules_stay_while_any_tenants_document_cannot_be_read() -> None:
    rules = Resource(Kind.RULES, "99", "p", net_id=99)
    assert orphans([rules], Records())
    assert orphans([rules], Records(unreadable=True)) == ()
    assert orphans([rules], Records(networks={99: TenantId("t")})) == ()
    assert orphans([rules], on_record("stopped")) == ()


def test_leftovers_come_in_the_order_of_removal() -> None:
    resources = [Resource(kind, kind.value, "p", GONE.instance_id) for kind in reversed(Kind)]
    assert [one.resource.kind for one in orphans(resources, Records())] == list(Kind)


def test_which_records_disagree_with_the_host() -> None:
    def found(records: Records) -> list[Inconsistency]:
        return [one for _, one in inconsistencies(records)]

    assert found(on_record("running")) == [Inconsistency.NO_VMM]
    assert found(on_record("stopped", vmm=True)) == [Inconsistency.STRAY_VMM]
    assert found(on_record("running", vmm=True, rules=False)) == [Inconsistency.NO_RULES]
    assert found(on_record("running", vmm=True)) == []
    assert found(on_record("destroyed", vmm=True)) == []
    assert found(replace(on_record("running"), busy=frozenset({GONE.instance_id}))) == []
    assert list(missing_confinement(on_record("running", vmm=True, missing="tap"))) == [
        (GONE, "tap")
    ]


def test_the_history_outlives_a_restart_but_not_a_boot(tmp_path: Path) -> None:
    left, path = orphans([CGROUP], Records()), tmp_path / "sweep.json"
    first = SweepHistory(path, boot_id="b", patience_s=GRACE_S)
    first.update(left, 100.0)
    first.save()
    again = SweepHistory(path, boot_id="b", patience_s=GRACE_S)
    again.update(left, 100.0 + GRACE_S)
    assert again.due(left, 100.0 + GRACE_S, GRACE_S) == left
    later = SweepHistory(path, boot_id="another", patience_s=GRACE_S)
    later.update(left, 100.0 + GRACE_S)
    assert later.due(left, 100.0 + GRACE_S, GRACE_S) == ()


def test_a_long_pause_resets_the_history(tmp_path: Path) -> None:
    left = orphans([CGROUP], Records())
    history = SweepHistory(tmp_path / "sweep.json", boot_id="b", patience_s=GRACE_S)
    history.update(left, 100.0)
    history.update(left, 101.0 + GRACE_S)
    assert history.due(left, 101.0 + GRACE_S, GRACE_S) == ()


def test_a_damaged_history_file_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_bytes(b"{")
    (left,) = orphans([CGROUP], Records())
    assert SweepHistory(path, boot_id="b", patience_s=1).first_s(left) is None


def test_a_sweep_removes_only_what_is_due(world: World) -> None:
    leave_everything(world)
    context = world.context
    sweep_context = SweepContext(
        context.host,
        world.ledger,
        context.locks,
        context.settings,
        context.clock.now_ms,
        "operator",
    )
    gone, problems = sweep_instance(GONE.instance_id, {("tap", "tn99i3"): 1.0}, sweep_context)
    assert [one.key for one in gone] == [("tap", "tn99i3")]
    assert problems == []
    assert GONE.instance_id in world.cgroups.groups
    assert net(99).bridge_name in world.links.devices
