"""What a request comes to, given the facts: the table "operation by status" of docs/protocol.md.

Pure.  A action is a closed choice; a state that forbids the request is a Conflict.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, assert_never

from enqueue.requests import (
    DestroyInstance,
    InstanceRequest,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from worker.errors import Conflict
from worker.plans.facts import InstanceFacts
from worker.ports import ImageState, VmmState

_DELTA_HINT: Final = (
    "snapshots/delta holds only the pages that differ from another file, and no digest to tell "
    "whether that file is still the same: hostd never loads it; stop the instance, then start it"
)
ALIVE = (VmmState.RUNNING, VmmState.PAUSED)


class Action(Enum):
    """What is to be done."""

    UNCHANGED = "unchanged"  # the goal holds
    BOOT = "boot"
    RESUME = "resume"  # a paused VMM of a warm or running instance
    STOP = "stop"
    SLEEP = "sleep"
    FINISH_SLEEP = "finish_sleep"  # the image is published; only the rest is missing
    WAKE = "wake"
    FINISH_WAKE = "finish_wake"  # the image is consumed and the VMM lives
    DESTROY = "destroy"
    LOST = "lost"  # the memory is gone: settle as stopped, then say so


def action_for(request: InstanceRequest, facts: InstanceFacts) -> Action:
    """What `request` comes to.

    Raises:
        Conflict: the instance's state forbids it.
    """
    if facts.instance is None:
        if isinstance(request, DestroyInstance):
            return Action.DESTROY if _remains(facts) else Action.UNCHANGED
        raise Conflict(
            "unknown_instance",
            f"{facts.ref} is not on record here",
            hint="write its instance.json first, with status created",
        )
    if facts.status == "destroyed" and not isinstance(request, DestroyInstance):
        raise Conflict("destroyed", f"{facts.ref} is destroyed", hint="make a new instance")
    match request:
        case StartInstance():
            return _start(facts)
        case StopInstance():
            return _stop(facts)
        case SleepInstance():
            return _sleep(facts)
        case WakeInstance():
            return _wake(facts)
        case DestroyInstance():
            return _destroy(request, facts)
        case _:
            assert_never(request)


def _start(facts: InstanceFacts) -> Action:
    asleep = facts.status == "sleeping" or (
        facts.status in ("running", "warm") and facts.vmm not in ALIVE and _published(facts)
    )
    if asleep:
        raise Conflict(
            "instance_sleeping",
            f"{facts.ref} sleeps; its image is untouched",
            hint="wake it, or stop it first to discard its memory",
        )
    if facts.status in ("running", "warm") and facts.vmm in ALIVE:
        return _live(facts)
    return Action.BOOT


def _live(facts: InstanceFacts) -> Action:
    """Start or Wake of what is running or warm on record, and whose VMM lives."""
    if facts.vmm is VmmState.PAUSED and _published(facts):
        raise Conflict(
            "instance_sleeping",
            f"{facts.ref} is about to sleep: its image is published",
            hint="wake it once its SleepInstance is done",
        )
    if facts.vmm is VmmState.RUNNING and facts.status == "running":
        return Action.UNCHANGED
    return Action.RESUME


def _stop(facts: InstanceFacts) -> Action:
    if facts.status in ("created", "ready", "stopped") and facts.vmm is VmmState.GONE:
        return Action.STOP if facts.image else Action.UNCHANGED
    return Action.STOP


def _sleep(facts: InstanceFacts) -> Action:
    if facts.status in ("running", "warm", "sleeping"):
        if facts.vmm is VmmState.RUNNING:
            return Action.SLEEP  # an image beside a running guest is stale
        if _published(facts):
            asleep = facts.status == "sleeping" and facts.vmm is VmmState.GONE
            return Action.UNCHANGED if asleep else Action.FINISH_SLEEP
        return Action.SLEEP if facts.vmm is VmmState.PAUSED else Action.LOST
    if facts.retry_of_failed_run and facts.status == "stopped":
        return Action.LOST  # no request has stopped it: hostd found its guest gone
    raise Conflict(
        "not_running", f"{facts.ref} is {facts.status}, not running", hint="start it first"
    )


def _wake(facts: InstanceFacts) -> Action:
    if facts.status in ("running", "warm") and facts.vmm in ALIVE:
        return _live(facts)
    if facts.status in ("running", "warm", "sleeping"):
        if _published(facts):
            # A guest that runs beside its image has changed since: the image is stale.
            return Action.FINISH_WAKE if facts.vmm is VmmState.RUNNING else Action.WAKE
        if facts.vmm in ALIVE:
            return Action.FINISH_WAKE
        if facts.image or facts.status != "sleeping":
            return Action.LOST
    raise Conflict(
        "no_image",
        f"{facts.ref} is {facts.status} and has no sleep image",
        hint=_DELTA_HINT if facts.delta_exists else "start it instead",
    )


def _destroy(request: DestroyInstance, facts: InstanceFacts) -> Action:
    if facts.status != "destroyed" or _remains(facts):
        return Action.DESTROY
    return Action.DESTROY if request.wipe_volumes and facts.volumes_exist else Action.UNCHANGED


def _remains(facts: InstanceFacts) -> bool:
    return facts.vmm is not VmmState.GONE or facts.image is not None


def _published(facts: InstanceFacts) -> bool:
    return facts.image is not None and facts.image.state is ImageState.PUBLISHED
