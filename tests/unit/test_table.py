"""What each operation comes to at each status: the table of docs/protocol.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from enqueue.documents import InstanceDoc, InstanceFields, Status
from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    InstanceRequest,
    PoolId,
    SleepInstance,
    StartInstance,
    StopInstance,
    TenantId,
    WakeInstance,
)
from worker.errors import Conflict
from worker.model.names import InstanceRef
from worker.plans import destroy, sleep, start, stop, wake
from worker.plans.action import UNCHANGED, Action
from worker.plans.facts import InstanceFacts
from worker.plans.operations import action_for
from worker.ports import Image, ImageFiles, ImageState, VmmState

IDS: dict[str, Any] = {
    "tenant_id": TenantId("acme"),
    "pool_id": PoolId("workers"),
    "instance_id": InstanceId("i-1a2b3c4d"),
}
REF = InstanceRef(**IDS)
START, STOP = StartInstance(**IDS), StopInstance(**IDS)
SLEEP, WAKE, DESTROY = SleepInstance(**IDS), WakeInstance(**IDS), DestroyInstance(**IDS)
GONE, IDLE = VmmState.GONE, VmmState.IDLE
RUNNING, PAUSED = VmmState.RUNNING, VmmState.PAUSED


def facts(
    status: Status | None, vmm: VmmState = GONE, image: ImageState = ImageState.NONE
) -> InstanceFacts:
    fields = InstanceFields(**IDS, status=status) if status else None
    files = ImageFiles(Path("/vmstate"), Path("/mem"))
    return InstanceFacts(
        ref=REF,
        at="2026-01-01T00:00:00Z",
        tenant=None,
        pool=None,
        instance=InstanceDoc(fields=fields, whole={}) if fields else None,
        artifacts=None,
        vmm=vmm,
        spec=None,
        image=None if image is ImageState.NONE else Image(image, files, None, {}),
        secrets=b"{}",
        volumes_exist=False,
    )


UNKNOWN = "conflict/unknown_instance"
DESTROYED = "conflict/destroyed"
NOT_RUNNING = "conflict/not_running"
NO_IMAGE = "conflict/no_image"
SLEEPING = "conflict/instance_sleeping"

# status (with what the host then has): start, stop, sleep, wake, destroy
TABLE: dict[Status | None, tuple[InstanceFacts, list[Action | str]]] = {
    None: (facts(None), [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, UNCHANGED]),
    "created": (
        facts("created"),
        [start.BOOT, UNCHANGED, NOT_RUNNING, NO_IMAGE, destroy.DESTROY],
    ),
    "ready": (
        facts("ready"),
        [start.BOOT, UNCHANGED, NOT_RUNNING, NO_IMAGE, destroy.DESTROY],
    ),
    "running": (
        facts("running", RUNNING),
        [UNCHANGED, stop.STOP, sleep.SLEEP, UNCHANGED, destroy.DESTROY],
    ),
    "warm": (
        facts("warm", PAUSED),
        [start.RESUME, stop.STOP, sleep.SLEEP, start.RESUME, destroy.DESTROY],
    ),
    "sleeping": (
        facts("sleeping", GONE, ImageState.PUBLISHED),
        [SLEEPING, stop.STOP, UNCHANGED, wake.WAKE, destroy.DESTROY],
    ),
    "stopped": (
        facts("stopped"),
        [start.BOOT, UNCHANGED, NOT_RUNNING, NO_IMAGE, destroy.DESTROY],
    ),
    "destroyed": (
        facts("destroyed"),
        [DESTROYED, DESTROYED, DESTROYED, DESTROYED, UNCHANGED],
    ),
}
OPS: list[InstanceRequest] = [START, STOP, SLEEP, WAKE, DESTROY]
CASES = [
    pytest.param(op, seen, action, id=f"{type(op).__name__}-{status}")
    for status, (seen, row) in TABLE.items()
    for op, action in zip(OPS, row, strict=True)
]


def outcome(op: InstanceRequest, seen: InstanceFacts) -> Action | str:
    try:
        return action_for(op, seen)
    except Conflict as conflict:
        return conflict.code


@pytest.mark.parametrize(("op", "seen", "action"), CASES)
def test_operation_by_status(
    op: InstanceRequest, seen: InstanceFacts, action: Action | str
) -> None:
    assert outcome(op, seen) == action


def test_the_table_has_every_status() -> None:
    assert set(TABLE) == {None, *get_args(Status)}


def test_the_table_has_every_operation() -> None:
    assert {type(op) for op in OPS} == set(get_args(InstanceRequest))


@pytest.mark.parametrize(
    ("op", "seen", "action"),
    [
        (SLEEP, facts("running", PAUSED, ImageState.PUBLISHED), sleep.FINISH_SLEEP),
        (SLEEP, facts("running", GONE, ImageState.PUBLISHED), sleep.FINISH_SLEEP),
        (SLEEP, facts("running", PAUSED), sleep.SLEEP),
        (SLEEP, facts("running", RUNNING, ImageState.PUBLISHED), sleep.SLEEP),
        (SLEEP, facts("running", GONE), stop.LOST),
        (SLEEP, facts("sleeping", PAUSED, ImageState.PUBLISHED), sleep.FINISH_SLEEP),
        (SLEEP, facts("sleeping", RUNNING), sleep.SLEEP),
        (SLEEP, facts("sleeping", RUNNING, ImageState.CONSUMED), sleep.SLEEP),
        (SLEEP, facts("sleeping", PAUSED, ImageState.CONSUMED), sleep.SLEEP),
        (SLEEP, facts("sleeping", GONE, ImageState.CONSUMED), stop.LOST),
        (SLEEP, facts("sleeping", GONE), stop.LOST),
        (WAKE, facts("sleeping", RUNNING), wake.FINISH_WAKE),
        (WAKE, facts("sleeping", PAUSED, ImageState.PUBLISHED), wake.WAKE),
        (WAKE, facts("sleeping", IDLE, ImageState.PUBLISHED), wake.WAKE),
        (WAKE, facts("sleeping", RUNNING, ImageState.PUBLISHED), wake.FINISH_WAKE),
        (WAKE, facts("sleeping", PAUSED, ImageState.CONSUMED), wake.FINISH_WAKE),
        (WAKE, facts("sleeping", RUNNING, ImageState.CONSUMED), wake.FINISH_WAKE),
        (WAKE, facts("sleeping", GONE, ImageState.CONSUMED), stop.LOST),
        (WAKE, facts("sleeping", GONE), NO_IMAGE),
        (WAKE, facts("running", GONE), stop.LOST),
        (WAKE, facts("running", GONE, ImageState.PUBLISHED), wake.WAKE),
        (START, facts("running", GONE, ImageState.PUBLISHED), SLEEPING),
        (START, facts("running", PAUSED, ImageState.PUBLISHED), SLEEPING),
        (START, facts("running", GONE), start.BOOT),
        (START, facts("running", IDLE), start.BOOT),
        (START, facts("created", RUNNING), start.BOOT),
        (STOP, facts("running", GONE), stop.STOP),
        (STOP, facts("created", IDLE), stop.STOP),
        (STOP, facts("stopped", GONE, ImageState.CONSUMED), stop.STOP),
        (DESTROY, facts(None, RUNNING), destroy.DESTROY),
    ],
)
def test_a_request_continues_from_what_a_kill_left(
    op: InstanceRequest, seen: InstanceFacts, action: Action | str
) -> None:
    assert outcome(op, seen) == action


def test_a_later_wipe_of_a_destroyed_instance_still_wipes() -> None:
    kept = facts("destroyed")
    kept = InstanceFacts(**{**{f: getattr(kept, f) for f in kept.__slots__}, "volumes_exist": True})
    wipe = DestroyInstance(**IDS, wipe_volumes=True)
    assert action_for(wipe, kept) is destroy.DESTROY
    assert action_for(DESTROY, kept) is UNCHANGED
