"""hostd killed at every effect of a sweep: the next sweep reaches the same end."""

from __future__ import annotations

from pathlib import Path

import pytest

from enqueue.requests import StartInstance
from tests.fakes.fuse import KilledError
from tests.fakes.leftovers import GHOST, GONE, GRACE_S, ONE, Sweeps, bare, leave_everything
from tests.fakes.world import World
from worker.ports import VmmState

MORE_THAN_THERE_ARE = 200


def arranged(directory: Path) -> World:
    """A host with one guest that lives, and leftovers of every kind."""
    world = World(directory)
    world.tenant("acme", 10, max_running=9, max_vcpus=9, max_mem_mib=99)
    ref = world.instance("acme", ONE)
    start = StartInstance(tenant_id=ref.tenant_id, pool_id=ref.pool_id, instance_id=ref.instance_id)
    world.ask(start, "start")
    leave_everything(world)
    return world


def swept(world: World) -> None:
    """As often as it takes for what lies in or on something else."""
    sweeps = Sweeps(world)
    for _ in range(5):
        sweeps.once()
        world.now_s += GRACE_S


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_sweep_killed_at_any_effect_is_finished_by_the_next(tmp_path: Path, after: bool) -> None:
    for n in range(1, MORE_THAN_THERE_ARE):
        world = arranged(tmp_path / f"{n}")
        world.fuse.rearm(n, after=after)
        try:
            swept(world)
        except KilledError:
            pass
        else:
            assert n > 10, "the fuse has met the removals"
            world.close()
            return
        world.fuse.rearm()
        world.restart()
        swept(world)
        assert Sweeps(world).once() == ()
        (living,) = world.vmm.machine.guests
        assert living.instance_id == ONE
        assert world.vmm.state(living) is VmmState.RUNNING
        assert GHOST not in str(bare(world))
        assert not world.vmm.jail_exists(GONE)
        world.close()
    pytest.fail("the sweep never came to its end")
