"""`hostd why INSTANCE`: the state of an instance, and what an operator should do about it."""

from __future__ import annotations

import time
from typing import Any

from enqueue.documents import is_up
from enqueue.requests import describe
from enqueue.results import Done, Failed
from enqueue.times import format_utc
from worker.commands.drain import waits_for_undrain
from worker.commands.host_view import HostView
from worker.commands.sweep import found
from worker.errors import Conflict, HostdError
from worker.ledger.entries import LedgerEntry
from worker.model.names import InstanceRef
from worker.ports import ImageState, VmmState
from worker.protocol.verification import trusted


def find(view: HostView, instance_id: str) -> InstanceRef:
    """The instance of that id.

    Raises:
        Conflict: `unknown_instance`.
    """
    for ref in view.host.records.instances():
        if ref.instance_id == instance_id:
            return ref
    left = sorted(
        one.resource.kind.value for one in found(view).left if one.resource.instance == instance_id
    )
    raise Conflict(
        "unknown_instance",
        f"no instance {instance_id} is on record under {view.config.paths.state}",
        hint=f"it has left {', '.join(left)}: see `hostd sweep --dry-run`"
        if left
        else "`hostd status` lists all",
    )


def why(view: HostView, instance_id: str) -> dict[str, Any]:
    """The instance on record and on the host, its lock, its requests, and advice."""
    ref = find(view, instance_id)
    history = view.ledger.requests.history(instance_id, limit=5)
    open_requests = [entry for entry in history if entry.state == "accepted"]
    facts = {
        "instance": str(ref),
        "status": _status(view, ref),
        "vmm": view.host.vmm.state(ref).value,
        "pid": view.host.vmm.pid(ref),
        "image": _image(view, ref),
        "lock": _lock(view, instance_id),
        "now": [_open(view, entry) for entry in open_requests],
        "last": [_ended(entry) for entry in history if entry.state != "accepted"],
    }
    return facts | {"advice": _advice(view, ref, facts, open_requests)}


def _status(view: HostView, ref: InstanceRef) -> str:
    doc = view.host.records.instance(ref)
    return doc.fields.status if doc else "unknown"


def _image(view: HostView, ref: InstanceRef) -> str:
    try:
        image = view.host.images.find(ref)
    except HostdError as error:
        return str(error)
    return image.state.value if image else ImageState.NONE.value


def _lock(view: HostView, instance_id: str) -> str:
    holder = view.locks.holder(f"instance-{instance_id}")
    if holder is None:
        return "free"
    return f"held by pid {holder.pid} for {holder.request_id} since {format_utc(holder.since_ms)}"


def _open(view: HostView, entry: LedgerEntry) -> str:
    request = trusted(entry.call).body.request
    steps = view.ledger.journal.steps(entry.request_id)
    open_steps = [name for name, _, finished_ms in steps if finished_ms is None]
    where = f"in step {open_steps[-1]}" if open_steps else f"{len(steps)} steps done"
    if not entry.attempts and waits_for_undrain(request, view.ledger):
        where = "waits: host is draining"
    elif not entry.attempts:
        where = "waits for its turn"
    elif entry.not_before_ms > time.time() * 1000:
        where = f"next attempt at {format_utc(entry.not_before_ms)}"
    return f"{entry.request_id} {describe(request)}: attempt {entry.attempts}, {where}"


def _ended(entry: LedgerEntry) -> str:
    said = describe(trusted(entry.call).body.request)
    match entry.result:
        case Done(state=state, changed=changed):
            outcome = state if changed else f"{state}, unchanged"
        case Failed() as failed:
            outcome = str(failed)
        case _:
            outcome = "no result on record"
    return f"{format_utc(entry.accepted_at_ms)} {entry.request_id} {said}: {outcome}"


def _advice(
    view: HostView, ref: InstanceRef, facts: dict[str, Any], open_requests: list[LedgerEntry]
) -> list[str]:
    """What to do, the most urgent first."""
    advice = []
    alive = facts["vmm"] in (VmmState.RUNNING.value, VmmState.PAUSED.value)
    if any("waits: host is draining" in line for line in facts["now"]):
        advice.append("the host is draining: `hostd drain --status`, `hostd undrain`")
    elif open_requests and facts["lock"] == "free":
        advice.append("a request is unfinished but holds no lock: is `hostd run` up?")
    elif open_requests:
        advice.append("a request is running: wait for it, or search hostd's log for its id")
    elif is_up(facts["status"]) and not alive:
        advice.append(
            "the record says that it runs, but it has no VMM: send StartInstance to boot it, or "
            "StopInstance to record that it is stopped"
        )
    elif facts["status"] == "sleeping" and facts["image"] != ImageState.PUBLISHED.value:
        advice.append("it has no usable image: send StopInstance; its disks are kept")
    elif facts["status"] not in ("running", "warm", "sleeping") and alive:
        advice.append("it has a VMM, but the record says that it does not run: send StopInstance")
    last = view.ledger.requests.history(ref.instance_id, limit=1)
    if last and isinstance(last[0].result, Failed):
        failed = last[0].result
        advice.append(f"its last request failed: {failed.hint or failed.message}")
        advice.append(f"see docs/runbook.md, {failed.code}")
    return advice or ["nothing: record and host agree"]
