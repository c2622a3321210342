"""`hostd status`: every instance on record, and what runs of it."""

from __future__ import annotations

from typing import Any

from worker.commands.drain import waits_for_undrain
from worker.commands.host_view import HostView
from worker.errors import HostdError
from worker.model.names import InstanceRef
from worker.protocol.verification import trusted


def instances(view: HostView) -> list[dict[str, Any]]:
    """One row an instance."""
    return [_row(view, ref) for ref in view.host.records.instances()]


def _row(view: HostView, ref: InstanceRef) -> dict[str, Any]:
    row: dict[str, Any] = {"instance": str(ref), "status": "?", "vmm": "?", "guest_ip": None}
    try:
        doc = view.host.records.instance(ref)
        if doc is not None:
            row["status"] = doc.fields.status
            row["guest_ip"] = doc.fields.net.guest_ip if doc.fields.net else None
        row["vmm"] = view.host.vmm.state(ref).value
    except HostdError as error:
        row["problem"] = str(error)
    open_requests = [
        e for e in view.ledger.requests.history(ref.instance_id, limit=20) if e.state == "accepted"
    ]
    row["unfinished"] = len(open_requests)
    requests = [trusted(entry.call).body.request for entry in open_requests]
    if any(waits_for_undrain(request, view.ledger) for request in requests):
        row["waits"] = "host is draining"
    return row
