"""A lost, replaced or restored ledger is never mistaken for the latest."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    PoolId,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    TenantId,
)
from enqueue.results import Done, Failed
from tests.fakes.world import NOW_S, World, net
from worker.commands.rebuild import is_whole, rebuilt
from worker.errors import StartupError
from worker.host.records.records import DiskRecords
from worker.ledger.backup import backup
from worker.ledger.identity import EVENTS_GAP, marker_path, open_ledger, read_marker, write_marker
from worker.ledger.ledger import Ledger
from worker.model.names import InstanceRef

NOW_MS = int(NOW_S * 1000)
ONE, TWO = "i-00000001", "i-00000002"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A tenant with an instance that runs; the ledger has been opened as `hostd run` does."""
    world = World(tmp_path)
    world.tenant("acme", 7)
    ask(world, StartInstance, world.instance("acme", ONE), "start-1")
    world.ledger.close()
    reopened(world).close()
    return world


def ids(ref: InstanceRef) -> dict[str, Any]:
    return {
        "tenant_id": TenantId(ref.tenant_id),
        "pool_id": PoolId(ref.pool_id),
        "instance_id": InstanceId(ref.instance_id),
    }


def ask(world: World, kind: Any, ref: InstanceRef, request_id: str) -> Any:
    return world.ask(kind(**ids(ref)), request_id)


def path_of(world: World) -> Path:
    return world.directory / "ledger.db"


def reopened(world: World, now_ms: int = NOW_MS) -> Ledger:
    return open_ledger(path_of(world), world.context.host, world.layout, now_ms=now_ms)


def gone(world: World) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path_of(world)}{end}").unlink(missing_ok=True)


def restored(world: World, copy: Path) -> None:
    gone(world)
    path_of(world).write_bytes(copy.read_bytes())


def copied(world: World, name: str = "copy.db") -> Path:
    target = world.directory / name
    backup(path_of(world), target, now_ms=NOW_MS)
    return target


def plain_copy(world: World) -> Path:
    """A copy as a filesystem snapshot makes it: without hostd's mark of a backup."""
    target = world.directory / "plain.db"
    target.write_bytes(path_of(world).read_bytes())
    return target


def offsets(world: World) -> dict[str, str]:
    return {key: owner for kind, key, owner in world.reservations() if kind == "offset"}


# ---------------------------------------------------------------- lost


def test_a_fresh_host_gets_a_ledger_and_a_marker_that_names_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.tenant("acme", 7)
    world.instance("acme", ONE)
    world.ledger.close()
    gone(world)
    with closing(reopened(world)) as ledger:
        marker = read_marker(world.layout)
        assert marker is not None
        assert marker.ledger_id == ledger.meta.get("ledger_id")
        assert ledger.meta.lost_before_ms() is None


@pytest.mark.parametrize("empty", [False, True], ids=["missing", "truncated to nothing"])
@pytest.mark.parametrize("marked", [False, True], ids=["no marker", "marker"])
def test_a_lost_ledger_is_not_replaced_by_an_empty_one(
    world: World, *, empty: bool, marked: bool
) -> None:
    gone(world)
    if empty:
        path_of(world).touch()
    if not marked:
        marker_path(world.layout).unlink()
    with pytest.raises(StartupError, match=r"is gone, but .*--rebuild-ledger"):
        reopened(world)
    assert not path_of(world).exists() or not path_of(world).stat().st_size


def test_a_damaged_marker_stops_the_start(world: World) -> None:
    marker_path(world.layout).write_bytes(b"{")
    with pytest.raises(StartupError, match="is damaged"):
        reopened(world)


def test_another_hosts_ledger_is_refused(world: World) -> None:
    gone(world)
    with closing(Ledger.open(path_of(world))) as other:
        other.meta.set("ledger_id", "of another host")
    with pytest.raises(StartupError, match="is of another host, but"):
        reopened(world)


# ---------------------------------------------------------------- rebuilt


@pytest.fixture
def rebuilt_world(world: World) -> World:
    gone(world)
    world.now_s += 60
    rebuilt(path_of(world), world.context.host, world.layout, now_ms=int(world.now_s * 1000))
    world.start()
    return world


def test_a_rebuilt_ledger_opens_as_this_hosts_own(rebuilt_world: World) -> None:
    rebuilt_world.ledger.close()
    with closing(reopened(rebuilt_world, NOW_MS + 99_000)) as ledger:
        assert ledger.meta.lost_before_ms() == NOW_MS + 60_000


def test_after_a_rebuild_a_request_issued_before_it_is_refused(rebuilt_world: World) -> None:
    rebuilt_world.now_s = NOW_S
    ref = rebuilt_world.instance("acme", ONE, status="stopped")
    result = ask(rebuilt_world, StartInstance, ref, "start-1")
    assert isinstance(result, Failed)
    assert result.code == "rejected/ledger_lost"
    assert ask(rebuilt_world, StartInstance, ref, "start-1").replayed


@pytest.mark.parametrize(
    ("after_s", "accepted"), [(-60, False), (29, False), (30, False), (31, True)]
)
def test_a_clock_that_is_ahead_does_not_admit_a_lost_request(
    rebuilt_world: World, after_s: int, *, accepted: bool
) -> None:
    rebuilt_world.now_s += after_s
    result = ask(rebuilt_world, SleepInstance, instance(rebuilt_world, ONE), "sleep-1")
    assert isinstance(result, Done) is accepted


def instance(world: World, instance_id: str) -> InstanceRef:
    return next(ref for ref in world.records.instances() if ref.instance_id == instance_id)


def test_after_a_rebuild_an_instance_keeps_its_address_and_no_other_gets_it(
    world: World,
) -> None:
    one, two = instance(world, ONE), world.instance("acme", TWO)
    before = offsets_now(world)
    gone(world)
    rebuilt(path_of(world), world.context.host, world.layout, now_ms=NOW_MS)
    world.start()
    world.now_s += 31
    assert offsets(world) == before == {"7/3": ONE}
    assert isinstance(ask(world, StartInstance, two, "start-2"), Done)
    assert isinstance(ask(world, SleepInstance, one, "sleep-1"), Done)
    assert offsets(world) == {"7/3": ONE, "7/4": TWO}


def offsets_now(world: World) -> dict[str, str]:
    world.start()
    try:
        return offsets(world)
    finally:
        world.ledger.close()


def test_after_a_rebuild_another_tenant_cannot_take_the_network(rebuilt_world: World) -> None:
    world = rebuilt_world
    world.now_s += 31
    world.tenant("other", 7)
    result = world.ask(SetupNetwork(tenant_id=TenantId("other"), net=net(7)), "net-1")
    assert isinstance(result, Failed)
    assert result.code == "conflict/network_taken"


def test_after_a_rebuild_what_runs_counts_against_the_quota(world: World) -> None:
    tenant = {"tenant_id": "acme", "net": net(7), "quotas": {"max_running": 1}}
    world.records.tenants["acme"] = msgspec.json.encode(tenant)
    gone(world)
    rebuilt(path_of(world), world.context.host, world.layout, now_ms=NOW_MS)
    world.start()
    world.now_s += 31
    two = world.instance("acme", TWO)
    assert ask(world, StartInstance, two, "start-2").code == "conflict/quota"
    ask(world, SleepInstance, instance(world, ONE), "sleep-1")
    assert isinstance(ask(world, StartInstance, two, "start-3"), Done)


def test_after_a_rebuild_event_numbers_leave_a_gap(world: World) -> None:
    marker = read_marker(world.layout)
    assert marker is not None
    assert marker.events > 0
    gone(world)
    rebuilt(path_of(world), world.context.host, world.layout, now_ms=NOW_MS)
    world.start()
    world.now_s += 31
    ask(world, SleepInstance, instance(world, ONE), "sleep-1")
    assert world.events[-1][0] > marker.events + EVENTS_GAP


def test_a_rebuild_keeps_the_old_files_and_reports_what_it_cannot_read(world: World) -> None:
    world.records.docs[world.instance("acme", TWO)] = b"{"
    path_of(world).write_bytes(b"x" * 9000)
    assert not is_whole(path_of(world))
    found = rebuilt(path_of(world), world.context.host, world.layout, now_ms=NOW_MS)
    assert Path(found["moved_aside"]).read_bytes() == b"x" * 9000
    assert found["instances"] == {"running": 1}
    assert found["reservations"] == {"instance": 1, "net": 1, "offset": 1, "quota": 1, "subnet": 1}
    (problem,) = found["problems"]
    assert TWO in problem
    assert is_whole(path_of(world))


@pytest.mark.parametrize("spoilt", [None, "tenant.json", "pool.json", "instance.json"])
def test_a_rebuild_from_the_documents_on_disk_reserves_the_same(
    world: World, spoilt: str | None
) -> None:
    """If a document is damaged, the bridge, the VMM's jail and the other documents are read."""
    world.start()
    before = world.reservations()
    world.ledger.close()
    written = on_disk(world)
    if spoilt is not None:
        written[spoilt].write_bytes(b"{")
    gone(world)
    host = replace(world.context.host, records=DiskRecords(world.layout))
    found = rebuilt(path_of(world), host, world.layout, now_ms=NOW_MS)
    world.start()
    assert world.reservations() == before
    assert len(found["problems"]) == (spoilt in ("tenant.json", "instance.json"))


def on_disk(world: World) -> dict[str, Path]:
    """The documents of the world, as files."""
    one = instance(world, ONE)
    files = {
        "tenant.json": (world.layout.tenant("acme"), world.records.tenants["acme"]),
        "pool.json": (world.layout.pool("acme", "p"), world.records.pools["acme", "p"]),
        "instance.json": (world.layout.instance(one), world.records.docs[one]),
    }
    for name, (directory, content) in files.items():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return {name: directory / name for name, (directory, _) in files.items()}


# ---------------------------------------------------------------- restored


def test_a_restored_backup_refuses_requests_that_it_may_lack(world: World) -> None:
    copy = copied(world)
    world.start()
    ask(world, StartInstance, world.instance("acme", TWO), "start-2")
    world.ledger.close()
    restored(world, copy)
    with closing(reopened(world, NOW_MS + 5000)) as ledger:
        assert ledger.meta.lost_before_ms() == NOW_MS + 5000
        assert ledger.meta.get("backup_at_ms") is None
    world.start()
    assert offsets(world) == {"7/3": ONE, "7/4": TWO}, "taken from the disk, not from the backup"
    two = instance(world, TWO)
    assert ask(world, StartInstance, two, "start-2").code == "rejected/ledger_lost"
    known = ask(world, StartInstance, instance(world, ONE), "start-1")
    assert isinstance(known, Done)
    assert known.replayed


def test_a_copy_without_hostds_mark_is_noticed_by_its_events(world: World) -> None:
    copy = plain_copy(world)
    world.start()
    ask(world, SleepInstance, instance(world, ONE), "sleep-1")
    write_marker(world.ledger, world.layout)
    world.ledger.close()
    restored(world, copy)
    with closing(reopened(world)) as ledger:
        assert ledger.meta.lost_before_ms() == NOW_MS


def test_a_copy_without_hostds_mark_is_noticed_by_a_missing_start(world: World) -> None:
    copy = plain_copy(world)
    reopened(world).close()
    restored(world, copy)
    with closing(reopened(world)) as ledger:
        assert ledger.meta.lost_before_ms() == NOW_MS


def test_the_latest_ledger_is_not_mistaken_for_an_old_one(world: World) -> None:
    for _ in range(3):
        with closing(reopened(world)) as ledger:
            assert ledger.meta.lost_before_ms() is None


def test_an_unfinished_request_of_a_backup_is_not_run_again(world: World) -> None:
    one = instance(world, ONE)
    world.start()
    world.begin(SleepInstance(**ids(one)), "sleep-1")
    world.ledger.close()
    copy = copied(world)
    world.restart()
    ask(world, DestroyInstance, one, "destroy-1")
    world.ledger.close()
    restored(world, copy)
    reopened(world).close()
    world.start()
    assert world.ledger.requests.unfinished() == []
    result = world.ledger.requests.entry("sleep-1").result
    assert isinstance(result, Failed)
    assert result.code == "rejected/ledger_lost"


def test_an_unfinished_request_whose_bytes_have_changed_is_not_carried_out(world: World) -> None:
    world.start()
    world.begin(SleepInstance(**ids(instance(world, ONE))), "sleep-1")
    with world.ledger.database.transaction() as db:
        (call,) = db.execute("SELECT call FROM requests WHERE request_id = 'sleep-1'").fetchone()
        changed = call.replace(ONE.encode(), TWO.encode())
        db.execute("UPDATE requests SET call = ? WHERE request_id = 'sleep-1'", (changed,))
    world.ledger.close()
    with pytest.raises(StartupError, match="its digest is not that of its bytes"):
        reopened(world)
