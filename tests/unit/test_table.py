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
from worker.plans.action import Verdict, verdict_for
from worker.plans.facts import InstanceFacts
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
TABLE: dict[Status | None, tuple[InstanceFacts, list[Verdict | str]]] = {
    None: (facts(None), [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, Verdict.UNCHANGED]),
    "created": (
        facts("created"),
        [Verdict.BOOT, Verdict.UNCHANGED, NOT_RUNNING, NO_IMAGE, Verdict.DESTROY],
    ),
    "ready": (
        facts("ready"),
        [Verdict.BOOT, Verdict.UNCHANGED, NOT_RUNNING, NO_IMAGE, Verdict.DESTROY],
    ),
    "running": (
        facts("running", RUNNING),
        [Verdict.UNCHANGED, Verdict.STOP, Verdict.SLEEP, Verdict.UNCHANGED, Verdict.DESTROY],
    ),
    "warm": (
        facts("warm", PAUSED),
        [Verdict.RESUME, Verdict.STOP, Verdict.SLEEP, Verdict.RESUME, Verdict.DESTROY],
    ),
    "sleeping": (
        facts("sleeping", GONE, ImageState.PUBLISHED),
        [SLEEPING, Verdict.STOP, Verdict.UNCHANGED, Verdict.WAKE, Verdict.DESTROY],
    ),
    "stopped": (
        facts("stopped"),
        [Verdict.BOOT, Verdict.UNCHANGED, NOT_RUNNING, NO_IMAGE, Verdict.DESTROY],
    ),
    "destroyed": (
        facts("destroyed"),
        [DESTROYED, DESTROYED, DESTROYED, DESTROYED, Verdict.UNCHANGED],
    ),
}
OPS: list[InstanceRequest] = [START, STOP, SLEEP, WAKE, DESTROY]
CASES = [
    pytest.param(op, seen, verdict, id=f"{type(op).__name__}-{status}")
    for status, (seen, row) in TABLE.items()
    for op, verdict in zip(OPS, row, strict=True)
]


def outcome(op: InstanceRequest, seen: InstanceFacts) -> Verdict | str:
    try:
        return verdict_for(op, seen)
    except Conflict as conflict:
        return conflict.code


@pytest.mark.parametrize(("op", "seen", "verdict"), CASES)
def test_operation_by_status(
    op: InstanceRequest, seen: InstanceFacts, verdict: Verdict | str
) -> None:
    assert outcome(op, seen) == verdict


def test_the_table_has_every_status() -> None:
    assert set(TABLE) == {None, *get_args(Status)}


@pytest.mark.parametrize(
    ("op", "seen", "verdict"),
    [
        (SLEEP, facts("running", PAUSED, ImageState.PUBLISHED), Verdict.FINISH_SLEEP),
        (SLEEP, facts("running", GONE, ImageState.PUBLISHED), Verdict.FINISH_SLEEP),
        (SLEEP, facts("running", PAUSED), Verdict.SLEEP),
        (SLEEP, facts("running", RUNNING, ImageState.PUBLISHED), Verdict.SLEEP),
        (SLEEP, facts("running", GONE), Verdict.LOST),
        (SLEEP, facts("sleeping", PAUSED, ImageState.PUBLISHED), Verdict.FINISH_SLEEP),
        (SLEEP, facts("sleeping", RUNNING), Verdict.SLEEP),
        (SLEEP, facts("sleeping", RUNNING, ImageState.CONSUMED), Verdict.SLEEP),
        (SLEEP, facts("sleeping", PAUSED, ImageState.CONSUMED), Verdict.SLEEP),
        (SLEEP, facts("sleeping", GONE, ImageState.CONSUMED), Verdict.LOST),
        (SLEEP, facts("sleeping", GONE), Verdict.LOST),
        (WAKE, facts("sleeping", RUNNING), Verdict.FINISH_WAKE),
        (WAKE, facts("sleeping", PAUSED, ImageState.PUBLISHED), Verdict.WAKE),
        (WAKE, facts("sleeping", IDLE, ImageState.PUBLISHED), Verdict.WAKE),
        (WAKE, facts("sleeping", RUNNING, ImageState.PUBLISHED), Verdict.FINISH_WAKE),
        (WAKE, facts("sleeping", PAUSED, ImageState.CONSUMED), Verdict.FINISH_WAKE),
        (WAKE, facts("sleeping", RUNNING, ImageState.CONSUMED), Verdict.FINISH_WAKE),
        (WAKE, facts("sleeping", GONE, ImageState.CONSUMED), Verdict.LOST),
        (WAKE, facts("sleeping", GONE), NO_IMAGE),
        (WAKE, facts("running", GONE), Verdict.LOST),
        (WAKE, facts("running", GONE, ImageState.PUBLISHED), Verdict.WAKE),
        (START, facts("running", GONE, ImageState.PUBLISHED), SLEEPING),
        (START, facts("running", PAUSED, ImageState.PUBLISHED), SLEEPING),
        (START, facts("running", GONE), Verdict.BOOT),
        (START, facts("running", IDLE), Verdict.BOOT),
        (START, facts("created", RUNNING), Verdict.BOOT),
        (STOP, facts("running", GONE), Verdict.STOP),
        (STOP, facts("created", IDLE), Verdict.STOP),
        (STOP, facts("stopped", GONE, ImageState.CONSUMED), Verdict.STOP),
        (DESTROY, facts(None, RUNNING), Verdict.DESTROY),
    ],
)
def test_what_a_kill_left_is_gone_on_with(
    op: InstanceRequest, seen: InstanceFacts, verdict: Verdict | str
) -> None:
    assert outcome(op, seen) == verdict


def test_a_later_wipe_of_a_destroyed_instance_still_wipes() -> None:
    kept = facts("destroyed")
    kept = InstanceFacts(**{**{f: getattr(kept, f) for f in kept.__slots__}, "volumes_exist": True})
    wipe = DestroyInstance(**IDS, wipe_volumes=True)
    assert verdict_for(wipe, kept) is Verdict.DESTROY
    assert verdict_for(DESTROY, kept) is Verdict.UNCHANGED
