"""What is on record, and what the host has: gathered once an attempt, before it is decided."""

from __future__ import annotations

from dataclasses import dataclass

from enqueue.requests import InstanceRequest, NetworkRequest
from worker.documents import InstanceDoc, PoolDoc, TenantDoc
from worker.names import InstanceRef, Layout
from worker.ports import Artifacts, Host, Image, VmmState, VmSpec


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """One instance, its pool and tenant; `at` is when, for the record (`%Y-%m-%dT%H:%M:%SZ`)."""

    ref: InstanceRef
    at: str
    tenant: TenantDoc | None
    pool: PoolDoc | None
    instance: InstanceDoc | None
    artifacts: Artifacts | None
    vmm: VmmState
    spec: VmSpec | None
    image: Image | None
    secrets: bytes
    volumes_exist: bool

    @property
    def status(self) -> str | None:
        """The status on record; None for an unknown instance."""
        return self.instance.fields.status if self.instance else None


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A tenant's network: what tenant.json says, and the marks of what is on its bridge."""

    tenant: TenantDoc | None
    attached: tuple[str, ...]


def instance_facts(
    request: InstanceRequest, host: Host, *, layout: Layout, at: str
) -> InstanceFacts:
    """The facts for an instance operation.

    Raises:
        Conflict: `bad_document`.
        Lost: `image_damaged`.
    """
    ref = InstanceRef.of(request)
    return InstanceFacts(
        ref=ref,
        at=at,
        tenant=host.records.tenant(ref.tenant_id),
        pool=host.records.pool(ref.tenant_id, ref.pool_id),
        instance=host.records.instance(ref),
        artifacts=host.records.artifacts(ref.tenant_id, ref.pool_id),
        vmm=host.vmm.state(ref),
        spec=host.vmm.spec(ref),
        image=host.images.find(ref),
        secrets=host.records.secrets(ref.tenant_id),
        volumes_exist=host.disks.exists(layout.volumes(ref)),
    )


def network_facts(request: NetworkRequest, host: Host) -> NetworkFacts:
    """The facts for a network operation.

    Raises:
        Conflict: `bad_document`.
    """
    marks = host.links.marked()
    ports = host.links.ports(request.net.bridge_name)
    return NetworkFacts(
        tenant=host.records.tenant(request.tenant_id),
        attached=tuple(sorted(marks.get(port, port).removeprefix("hostd:") for port in ports)),
    )
