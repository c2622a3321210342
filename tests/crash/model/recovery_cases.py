"""Every state in which a crash or a reboot may leave an instance, set up on the fake machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, get_args

import msgspec

from enqueue.documents import Status
from enqueue.requests import InstanceRequest
from enqueue.results import Done, Failed
from tests.fakes.scenarios import SLEEP, START, STOP, WAKE
from tests.fakes.world import World
from worker.ledger.instances import Change
from worker.model.names import InstanceRef
from worker.plans.image_manifest import spec_to_builtins
from worker.ports import VmmState

IMAGES: Final = ("none", "partial", "published", "consumed", "damaged")
INTERRUPTED: Final[dict[str, InstanceRequest | None]] = {
    "none": None, "StartInstance": START, "SleepInstance": SLEEP, "WakeInstance": WAKE,
    "StopInstance": STOP,
}  # fmt: skip
ALIVE: Final = (VmmState.IDLE, VmmState.RUNNING, VmmState.PAUSED)
HELD_BY_THE_DEAD: Final = 77  # a guest's memory, to recognize it later


@dataclass(frozen=True, slots=True)
class Case:
    """What a starting hostd finds: the record, the VMM, the image, the boot, the journal."""

    status: str
    vmm: VmmState
    image: str
    rebooted: bool
    interrupted: str

    def __str__(self) -> str:
        boot = "another boot" if self.rebooted else "same boot"
        return f"{self.status}-{self.vmm.value}-{self.image}-{boot}-{self.interrupted}"


def cases() -> Iterator[Case]:
    """All cases; after a reboot no VMM runs."""
    vmms = [(vmm, False) for vmm in (VmmState.GONE, *ALIVE)] + [(VmmState.GONE, True)]
    for status, (vmm, rebooted), image, interrupted in product(
        get_args(Status), vmms, IMAGES, INTERRUPTED
    ):
        yield Case(status, vmm, image, rebooted, interrupted)


def arrange(world: World, case: Case) -> InstanceRef:
    """Sets up the case; its request, if any, was in an attempt."""
    world.tenant("acme", 5)
    ref = world.instance("acme", "i-00000001")
    assert isinstance(world.ask(START, "start"), Done)
    world.vmm.machine.guests[ref].memory = HELD_BY_THE_DEAD
    if case.image != "none":
        _make_image(world, ref, case.image)
    _set_vmm(world, ref, case.vmm)
    document = msgspec.json.decode(world.records.docs[ref])
    world.records.docs[ref] = msgspec.json.encode({**document, "status": case.status})
    told = Change(ref.instance_id, ref.tenant_id, ref.pool_id, case.status)
    world.ledger.record_events((), told, now_ms=int(world.now_s * 1000))
    if case.rebooted:
        world.links.devices.clear()
        world.firewall.rules.clear()
        world.cgroups.groups.clear()
    request = INTERRUPTED[case.interrupted]
    if request is not None:
        world.begin(request, "r")
    return ref


def _make_image(world: World, ref: InstanceRef, how: str) -> None:
    """Makes the image of a SleepInstance that the record no longer names; its VMM still exists."""
    spec, doc = world.vmm.spec(ref), world.records.instance(ref)
    assert spec is not None
    assert doc is not None
    world.vmm.pause(ref)
    manifest = {"spec": spec_to_builtins(spec), "request_id": "earlier"}
    secrets = world.disks.secrets_path(ref.instance_id)
    world.images.seal(ref, "earlier", world.vmm.snapshot(spec), secrets, manifest)
    if how == "partial":
        return
    world.images.publish(ref, "earlier")
    generation = world.images.published[ref]
    generation.consumed = how == "consumed"
    if how == "damaged":
        next(path for path in generation.sizes if path.name == "memory").unlink()


def _set_vmm(world: World, ref: InstanceRef, state: VmmState) -> None:
    if state is VmmState.GONE:
        world.vmm.dies(ref)
    else:
        world.vmm.machine.guests[ref].state = state


def outcome(world: World, ref: InstanceRef, case: Case) -> str:
    """The outcome, as a cell of the table."""
    status = msgspec.json.decode(world.records.docs[ref])["status"]
    if case.interrupted != "none":
        result = world.published["h1_r"][-1]
        return f"`{result.code}`, {status}" if isinstance(result, Failed) else status
    for _, event in [*world.events, *world.ledger.outbox.unpublished()]:
        found = msgspec.json.decode(event)
        if found["event"] == "reconciled":
            same = f"{found['finding']}: {found['after']}"
            return f"{same} ({found['reason']})" if found["before"] != found["after"] else same
    return f"nothing: {status}"
