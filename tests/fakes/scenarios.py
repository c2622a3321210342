"""Requests about one instance of one tenant, and what must have happened before each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    PoolId,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    WakeInstance,
)
from enqueue.results import Done
from tests.fakes.world import World, net

ACME, POOL, ONE = TenantId("acme"), PoolId("p"), InstanceId("i-00000001")
START = StartInstance(tenant_id=ACME, pool_id=POOL, instance_id=ONE)
STOP = StopInstance(tenant_id=ACME, pool_id=POOL, instance_id=ONE)
SLEEP = SleepInstance(tenant_id=ACME, pool_id=POOL, instance_id=ONE)
WAKE = WakeInstance(tenant_id=ACME, pool_id=POOL, instance_id=ONE)
DESTROY = DestroyInstance(tenant_id=ACME, pool_id=POOL, instance_id=ONE, wipe_volumes=True)
SETUP = SetupNetwork(tenant_id=ACME, net=net(5))
TEARDOWN = TeardownNetwork(tenant_id=ACME, net=net(5))

# `key`: from then on the tenant has a disk key; `zstd`: its pool's images are compressed
Prelude = Sequence[Request | Literal["key", "zstd"]]

SCENARIOS: dict[str, tuple[Prelude, Request]] = {
    "setup": ([], SETUP),
    "teardown": ([SETUP], TEARDOWN),
    "start": ([], START),
    "start on a network": ([SETUP], START),
    "start again": ([START, STOP], START),
    "stop": ([START], STOP),
    "stop asleep": ([START, SLEEP], STOP),
    "sleep": ([START], SLEEP),
    "sleep again": ([START, SLEEP, WAKE], SLEEP),
    "wake": ([START, SLEEP], WAKE),
    "destroy": ([START], DESTROY),
    "destroy asleep": ([START, SLEEP], DESTROY),
    "sleep compressed": (["zstd", START], SLEEP),
    "wake compressed": (["zstd", START, SLEEP], WAKE),
    "start encrypted": (["key"], START),
    "wake encrypted": (["key", START, SLEEP], WAKE),
    "destroy encrypted": (["key", START], DESTROY),
}


def prepare(world: World, prelude: Prelude) -> None:
    """The tenant, its instance, and the requests before; the fuse counts from here."""
    world.tenant("acme", 5)
    world.instance("acme", "i-00000001")
    for number, request in enumerate(prelude):
        if request == "key":
            world.key("acme")
            continue
        if request == "zstd":
            world.change_pool("acme", snapshot_compression="zstd")
            continue
        result = world.ask(request, f"prelude-{number}")
        assert isinstance(result, Done), result
    world.fuse.rearm()
