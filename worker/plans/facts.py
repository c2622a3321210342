"""Reads, once per attempt, the documents and the host's state that a plan is decided from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from enqueue.documents import InstanceDoc, PoolDoc, Status, TenantDoc
from enqueue.requests import NetworkRequest
from worker.errors import HostdError
from worker.model.layout import Layout
from worker.model.names import OWNER_PREFIX, InstanceRef
from worker.ports import Artifacts, Host, Image, ImageFiles, ImageState, Platform, VmmState, VmSpec

T = TypeVar("T")

DAMAGED: Final[Image | None] = Image(ImageState.DAMAGED, ImageFiles(Path(), Path()), None, {})


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """One instance, its pool and its tenant; `at` is the time for records (`%Y-%m-%dT%H:%M:%SZ`).

    `disk_key` is the file with the key of the tenant's data disks; None: they are not encrypted.
    """

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
    retry_of_failed_run: bool = (
        False  # the request failed for the time being, and nothing was decided since
    )
    image_parts: bool = False  # a part of an image exists, or all of it
    delta_exists: bool = False  # an image of the system before hostd, in a format it never loads
    platform: Platform | None = None  # read only where the operation needs it
    disk_key: Path | None = None

    @property
    def status(self) -> Status | None:
        """The status on record; None for an unknown instance."""
        return self.instance.fields.status if self.instance else None

    @property
    def alive(self) -> bool:
        """Whether a VMM has the guest."""
        return self.vmm in (VmmState.RUNNING, VmmState.PAUSED)

    @property
    def published(self) -> bool:
        """Whether a whole sleep image exists."""
        return self.image is not None and self.image.state is ImageState.PUBLISHED


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """A tenant's network: its tenant.json, and the owners of the devices on its bridge."""

    tenant: TenantDoc | None
    attached: tuple[str, ...]


def instance_facts(
    ref: InstanceRef,
    host: Host,
    *,
    layout: Layout,
    at: str,
    tolerant: bool = False,
    with_platform: bool = False,
) -> InstanceFacts:
    """The facts for an instance operation.

    `tolerant`: what cannot be read counts as absent, and a VMM that does not answer as `HUNG`.

    Raises:
        Conflict: `bad_document`.
        Lost: `image_damaged`.
        Transient, Broken: the VMM does not answer as it should.
    """
    records, key = host.records, layout.disk_key(ref.tenant_id)

    def read(look: Callable[[], T], otherwise: T) -> T:
        try:
            return look()
        except HostdError:
            if not tolerant:
                raise
            return otherwise

    return InstanceFacts(
        ref=ref,
        at=at,
        tenant=read(lambda: records.tenant(ref.tenant_id), None),
        pool=read(lambda: records.pool(ref.tenant_id, ref.pool_id), None),
        instance=read(lambda: records.instance(ref), None),
        artifacts=read(lambda: records.artifacts(ref.tenant_id, ref.pool_id), None),
        vmm=read(lambda: host.vmm.state(ref, fresh=True), VmmState.HUNG),
        spec=host.vmm.spec(ref),
        image=read(lambda: host.images.find(ref), DAMAGED),
        secrets=read(lambda: records.secrets(ref.tenant_id), b"{}"),
        volumes_exist=host.disks.exists(layout.volumes(ref)),
        image_parts=host.images.has_files(ref),
        delta_exists=host.disks.exists(layout.images(ref) / "delta"),
        platform=host.vmm.platform() if with_platform else None,
        disk_key=key if host.disks.exists(key) else None,
    )


def network_facts(request: NetworkRequest, host: Host) -> NetworkFacts:
    """The facts for a network operation.

    Raises:
        Conflict: `bad_document`.
    """
    marks = host.links.owned()
    ports = host.links.ports(request.net.bridge_name)
    return NetworkFacts(
        tenant=host.records.tenant(request.tenant_id),
        attached=tuple(sorted(marks.get(port, port).removeprefix(OWNER_PREFIX) for port in ports)),
    )
