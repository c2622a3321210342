"""The operations at whose every effect hostd is killed, and the requests before each."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from enqueue.requests import (
    DestroyInstance,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    WakeInstance,
)
from enqueue.results import Failed
from tests.crash.process.host import SETTINGS, Machine
from tests.crash.process.seen import vmms
from tests.fixtures.worker import NET_ID, TENANT, ids
from worker.demo import documents
from worker.model.names import InstanceRef

Ask = Callable[[InstanceRef], Request]


@dataclass(frozen=True, slots=True)
class Operation:
    """One request from one state, or the work that a starting hostd does without a request.

    `before` leads from a new instance to the state, `back` from the end to the state again.
    Without `back` every point has a new instance, on a host as it was before the first.
    """

    name: str
    before: tuple[Ask, ...]
    asked: Ask
    back: tuple[Ask, ...] = ()
    happened: Callable[[Machine, InstanceRef], None] | None = None  # instead of a request

    @property
    def fresh(self) -> bool:
        """Whether every point has a new instance."""
        return not self.back


def start(ref: InstanceRef) -> Request:
    """StartInstance."""
    return StartInstance(**ids(ref))


def stop(ref: InstanceRef) -> Request:
    """StopInstance."""
    return StopInstance(**ids(ref))


def sleep(ref: InstanceRef) -> Request:
    """SleepInstance."""
    return SleepInstance(**ids(ref))


def wake(ref: InstanceRef) -> Request:
    """WakeInstance."""
    return WakeInstance(**ids(ref))


def destroy(ref: InstanceRef) -> Request:
    """DestroyInstance, with its volumes."""
    return DestroyInstance(**ids(ref), wipe_volumes=True)


def up(_: InstanceRef) -> Request:
    """SetupNetwork."""
    return SetupNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID))


def down(_: InstanceRef) -> Request:
    """TeardownNetwork."""
    return TeardownNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID))


def guest_exits(machine: Machine, ref: InstanceRef) -> None:
    """Kills the VMM while hostd does not run."""
    for pid in vmms(machine.hostd, ref):
        os.kill(pid, signal.SIGKILL)


def sleep_fails(machine: Machine, ref: InstanceRef) -> None:
    """A Sleep that failed because the disk was full; now there is space."""
    full = dict(SETTINGS["images"]) | {"keep_free_mib": 1 << 30}
    machine.hostd.configure(images=full, retry={"attempts": 1})
    result = machine.ask(sleep(ref))
    assert isinstance(result, Failed), result
    assert result.failure_class == "transient"
    machine.rest()
    machine.kill()
    machine.hostd.configure(retry={"attempts": 1})


GONE: Final = (destroy, down)
OPERATIONS: Final = (
    Operation("SetupNetwork", (), up, (down,)),
    Operation("TeardownNetwork", (up,), down, (up,)),
    Operation("the first Start", (), start),
    Operation("Start", (start, stop), start, (stop,)),
    Operation("Stop", (start,), stop, (start,)),
    Operation("Sleep", (start,), sleep, (wake,)),
    Operation("Wake", (start, sleep), wake, (sleep,)),
    Operation("Stop asleep", (start, sleep), stop, (start, sleep)),
    Operation("Destroy", (start,), destroy),
    Operation("Destroy asleep", (start, sleep), destroy),
    Operation("a guest that exited", (start,), stop, (start,), guest_exits),
    Operation("a Sleep retried", (start,), sleep, (wake,), sleep_fails),
)
