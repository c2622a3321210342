"""The step that writes an instance's status: always the last of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from enqueue.documents import Status
from worker.errors import Conflict
from worker.model.names import InstanceRef
from worker.ports import Host

RECORDED: Final = "status_recorded"


@dataclass(frozen=True, slots=True)
class StatusRecorded:
    """instance.json has this status, these values, and the pid of the living VMM or none.

    `stamps` only matter when the status changes: they are written, but `done` ignores them.
    """

    ref: InstanceRef
    status: Status
    values: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Any] = field(default_factory=dict)
    name: str = RECORDED

    def done(self, host: Host) -> bool:
        doc = host.records.instance(self.ref)
        if doc is None or doc.fields.status != self.status:
            return False
        if doc.fields.firecracker_pid != host.vmm.pid(self.ref):
            return False
        return all(doc.whole.get(key) == value for key, value in self.values.items())

    def apply(self, host: Host) -> None:
        doc = host.records.instance(self.ref)
        if doc is None:
            raise Conflict("unknown_instance", f"{self.ref} has no instance.json any more")
        pid = host.vmm.pid(self.ref)
        host.records.put_instance(
            self.ref,
            doc.changed(status=self.status, firecracker_pid=pid, **{**self.values, **self.stamps}),
        )

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Audited:
    """The tenant's audit log says what the request did to the instance, once."""

    ref: InstanceRef
    action: str
    request_id: str
    at: str
    detail: str
    name: str = "audited"

    def done(self, host: Host) -> bool:
        return host.records.audited(self.ref.tenant_id, self.request_id)

    def apply(self, host: Host) -> None:
        entry = {
            "timestamp": self.at,
            "tenant_id": self.ref.tenant_id,
            "pool_id": self.ref.pool_id,
            "instance_id": self.ref.instance_id,
            "action": self.action,
            "detail": self.detail,
            "request_id": self.request_id,
        }
        host.records.audit(self.ref.tenant_id, entry)

    def undo(self, host: Host) -> None:
        pass  # an audit log is only ever added to
