"""The port of documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from enqueue.documents import InstanceDoc, PoolDoc, TenantDoc
from enqueue.requests import TenantId
from worker.model.names import InstanceRef


@dataclass(frozen=True, slots=True)
class Artifacts:
    """A pool's current revision: `revisions/<revision>` and the files in it."""

    revision: str
    kernel: Path
    rootfs: Path


class Records(Protocol):
    """The JSON documents under the state directory."""

    def tenant(self, tenant_id: str) -> TenantDoc | None:
        """tenant.json.

        Raises:
            Conflict: `bad_document`, it does not parse; the message says where.
        """

    def pool(self, tenant_id: str, pool_id: str) -> PoolDoc | None:
        """pool.json.

        Raises:
            Conflict: `bad_document`.
        """

    def instance(self, ref: InstanceRef) -> InstanceDoc | None:
        """instance.json.

        Raises:
            Conflict: `bad_document`.
        """

    def put_instance(self, ref: InstanceRef, doc: InstanceDoc) -> None:
        """Writes instance.json, durably and atomically.

        Raises:
            Transient: `no_space`.
        """

    def instances(self) -> tuple[InstanceRef, ...]:
        """Every instance with a document on this host."""

    def tenant_ids(self) -> tuple[TenantId, ...]:
        """Every tenant with a document on this host."""

    def artifacts(self, tenant_id: str, pool_id: str) -> Artifacts | None:
        """The pool's current revision; None if `artifacts/current` is not a symlink to a
        complete one."""

    def audited(self, tenant_id: str, request_id: str) -> bool:
        """Whether the latest lines of the tenant's audit log name the request."""

    def audit(self, tenant_id: str, entry: Mapping[str, Any]) -> None:
        """Appends the entry to the tenant's audit log, durably.

        Raises:
            Transient: `no_space`.
        """

    def secrets(self, tenant_id: str) -> bytes:
        """The bytes of secrets.json; `{}` if there is none.

        Raises:
            Conflict: `bad_document`, not a regular file, or larger than 8 MiB.
        """
