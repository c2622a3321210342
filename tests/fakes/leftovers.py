"""Leftovers of every kind on the fake machine, and sweeps over it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from enqueue.requests import InstanceId, PoolId, TenantId
from tests.fakes.world import World
from worker.config import SweepConfig
from worker.model.names import InstanceRef
from worker.ports import Bridge, GuestRules, Limits, Tap, TenantRules
from worker.sweep.history import SweepHistory
from worker.sweep.orphans import Orphan
from worker.sweep.sweeper import Sweeper

GRACE_S = 600.0
ONE, GHOST = "i-0000000a", "i-0000dead"
GONE = InstanceRef(TenantId("ghosts"), PoolId("p"), InstanceId(GHOST))
LIMITS = Limits(1 << 26, 100_000, 32)


class Sweeps:
    """Sweeps of one hostd process, and the clock between them."""

    def __init__(self, world: World, *, remove: bool = True) -> None:
        self.world = world
        self.history = SweepHistory(world.directory / "sweep.json", boot_id="b", patience_s=GRACE_S)
        config = msgspec.structs.replace(
            world.context.config, sweep=SweepConfig(grace_s=GRACE_S, remove=remove)
        )
        self.same = True
        context = replace(world.context, config=config)
        self.sweeper = Sweeper(context, self.history, lambda: self.same)

    def once(self) -> tuple[Orphan, ...]:
        """One sweep and the stories it made; what was left over before."""
        found = self.sweeper.sweep()
        self.world.executors.run()
        return found

    def until_due(self) -> tuple[Orphan, ...]:
        """The first sweep, and one after the grace period."""
        self.once()
        self.world.now_s += GRACE_S
        return self.once()

    def kinds(self) -> set[str]:
        return {one.resource.kind.value for one in self.once()}


def leave_everything(world: World) -> None:
    """One leftover of each kind, of an instance and a tenant without documents."""
    world.links.devices["tn99i3"] = Tap("tn99i3", True, 1, None, f"hostd:{GHOST}")
    world.links.devices["br-tenant-99"] = Bridge(
        "br-tenant-99", True, frozenset(), "02:fc:00:63:00:01", "hostd:ghosts", True
    )
    world.firewall.put(
        TenantRules("ghosts", 99, "br-tenant-99", "10.240.99.0/24", "10.240.99.1", "", 8169)
    )
    world.firewall.put_guest(GuestRules("tn99i3", "02:fc:00:63:00:03", "10.240.99.3"))
    world.cgroups.put(GONE.instance_id, LIMITS)
    world.cgroups.enter(GONE.instance_id)
    jail = world.layout.jail_base(GONE) / "firecracker" / GHOST / "root"
    jail.mkdir(parents=True)
    world.vmm.machine.mounts.add(GONE)
    secrets = world.disks.secrets_path(GONE.instance_id)
    secrets.parent.mkdir(parents=True, exist_ok=True)
    secrets.write_bytes(b"secret")
    world.disks.devices.mkdir(exist_ok=True)
    volume = world.layout.volumes(GONE) / "data.ext4"
    (world.disks.devices / f"mvm-ghosts-{GHOST}").write_text(str(volume))
    world.images.reserve(GONE, "r", 1)
    world.ledger.reservations.reserve("instance", GHOST, "ghosts/p")
    world.ledger.reservations.reserve("quota", GHOST, "ghosts")


def bare(world: World) -> dict[str, Any]:
    seen = world.seen()
    return {key: seen[key] for key in ("links", "rules", "held", "groups", "open", "disks")}
