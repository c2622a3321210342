"""Bugs that controllers of Firecracker have had with sleep images and disks: none is in hostd."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest

from enqueue.results import Failed
from tests.fixtures.real_host import RealHost, RealHosts
from tests.root.faults.lives import arranged, carried_out, change_pool, done
from worker.host.firecracker.jail.jail import find_jail
from worker.ports import VmmState

pytestmark = pytest.mark.root
WAIT_S = 60.0


@pytest.fixture
def world(real_hosts: RealHosts) -> Iterator[RealHost]:
    """A host with one instance."""
    made = real_hosts()
    yield made
    made.close()


# ---------------------------------------------------------------- refused calls


def test_guest_survives_a_refused_snapshot(world: RealHost) -> None:
    arranged(world, "SleepInstance")
    pid = world.real.pid(world.ref)
    world.misbehave(routes={"PUT /snapshot/create": {"status": 400, "message": "no luck"}})
    result = carried_out(world, "SleepInstance")
    assert isinstance(result, Failed)
    assert (result.code, "no luck" in result.message) == ("broken/vmm_refused", True)
    assert world.real.pid(world.ref) == pid
    assert (world.guest(), world.status(), world.image()) == ("running", "running", "")


# ---------------------------------------------------------------- images


def test_image_of_another_instance_is_not_loaded(real_hosts: RealHosts) -> None:
    one, other = real_hosts(), real_hosts()
    for world in (one, other):
        arranged(world, "WakeInstance")
    mine, theirs = (world.layout.images(world.ref) for world in (one, other))
    mine.rename(mine.with_name("kept"))
    theirs.rename(mine)
    refused = carried_out(one, "WakeInstance")
    assert isinstance(refused, Failed)
    assert refused.code == "conflict/image_foreign"
    assert (one.guest(), list(one.leaks())) == ("asleep", [])
    mine.rename(theirs)
    mine.with_name("kept").rename(mine)
    for world in (one, other):
        done(world, "WakeInstance")
        assert world.counts_beyond(world.last_count)
        world.close()


def test_truncated_image_is_not_loaded(
    world: RealHost,
) -> None:
    arranged(world, "WakeInstance")
    image = world.layout.images(world.ref) / "sleep"
    manifest = json.loads((image / "manifest.json").read_text())
    assert manifest["kind"] == "Full"
    assert manifest["spec"]["ref"]["instance_id"] == world.ref.instance_id
    memory = image / "mem.bin"
    whole = memory.read_bytes()
    memory.write_bytes(whole[:-4096])
    torn = carried_out(world, "WakeInstance")
    assert isinstance(torn, Failed)
    assert torn.code == "lost/image_damaged"
    memory.write_bytes(whole)
    done(world, "WakeInstance")
    assert world.counts_beyond(world.last_count)


@pytest.mark.parametrize("codec", ["none", "zstd", "lz4"])
def test_every_image_is_full_and_survives_compression(world: RealHost, codec: str) -> None:
    change_pool(world, snapshot_compression=codec)
    arranged(world, "SleepInstance")
    world.misbehave(requests="/requests")
    assert world.real.state(world.ref, fresh=True) is VmmState.RUNNING  # the first that is noted
    jail = find_jail(world.layout.jail_base(world.ref), world.ref.instance_id)
    assert jail is not None
    with (jail.root / "requests").open() as asked:
        done(world, "SleepInstance")
        calls = [json.loads(line) for line in asked]
    bodies = [body for _, path, body in calls if path == "/snapshot/create"]
    assert [body["snapshot_type"] for body in bodies] == ["Full"]
    world.misbehave()
    done(world, "WakeInstance")
    assert world.counts_beyond(world.last_count)


def test_image_is_never_overwritten(world: RealHost) -> None:
    arranged(world, "WakeInstance")
    image = world.layout.images(world.ref) / "sleep"
    first = (image / "mem.bin").open("rb")
    with first:
        before = hashlib.sha256(first.read()).hexdigest()
        done(world, "WakeInstance")
        assert world.counts_beyond(world.last_count)
        done(world, "SleepInstance")
        first.seek(0)
        assert hashlib.sha256(first.read()).hexdigest() == before
        assert (image / "mem.bin").stat().st_ino != 0
        assert hashlib.sha256((image / "mem.bin").read_bytes()).hexdigest() != before


# ---------------------------------------------------------------- disks of a sleeping guest


def disks_in(world: RealHost) -> dict[str, tuple[int, str]]:
    """Each disk of the living guest: where its bytes are, but for the one in memory, and what."""
    jail = find_jail(world.layout.jail_base(world.ref), world.ref.instance_id)
    assert jail is not None
    found = {}
    for name in ("rootfs", "config", "data", "secrets"):
        disk = jail.root / name
        inode = 0 if name == "secrets" else disk.stat().st_ino
        found[name] = (inode, hashlib.sha256(disk.read_bytes()).hexdigest())
    return found


def test_guest_wakes_with_the_disks_that_it_had_mounted(world: RealHost) -> None:
    arranged(world, "SleepInstance")
    jail = find_jail(world.layout.jail_base(world.ref), world.ref.instance_id)
    assert jail is not None
    with (jail.root / "data").open("r+b") as disk:
        disk.seek(4 << 20)
        disk.write(b"what the guest wrote")
    before = disks_in(world)
    done(world, "SleepInstance")
    (world.layout.tenant(world.tenant_id) / "secrets.json").write_text('{"token": "another"}')
    change_pool(world, instance_resources={"vcpus": 2, "mem_mib": 16, "data_disk_mib": 9})
    done(world, "WakeInstance")
    assert disks_in(world) == before
