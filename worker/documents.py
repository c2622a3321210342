"""The JSON documents of a host, as far as hostd reads them.

agentd writes tenant.json, pool.json and instance.json as `created`; from then on hostd alone
changes an instance's status and runtime fields.  Keys that hostd does not know are kept: an
`InstanceDoc` carries the whole document in `extra` and writes it back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from enqueue.requests import Instance, Pool, Tenant, TenantNet

Status = Literal["created", "ready", "running", "warm", "sleeping", "stopped", "destroyed"]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's limits on this host."""

    max_vcpus: Count = 16
    max_mem_mib: Count = 32_768
    max_running: Count = 8
    max_warm: Count = 4
    max_pools: Count = 4
    max_instances_per_pool: Count = 16
    max_disk_gib: Count = 100


class TenantDoc(msgspec.Struct, frozen=True, kw_only=True):
    """tenant.json."""

    tenant_id: Tenant
    quotas: Quotas = Quotas()
    net: TenantNet


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance of a pool gets.  Firecracker allows 1..32 vCPUs."""

    vcpus: Annotated[int, msgspec.Meta(ge=1, le=32)]
    mem_mib: Positive
    data_disk_mib: Count = 0


class RuntimePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A pool's times, in seconds."""

    min_running_seconds: Count = 60
    min_warm_seconds: Count = 30
    drain_timeout_seconds: Count = 30
    graceful_shutdown_seconds: Count = 15


class PoolDoc(msgspec.Struct, frozen=True, kw_only=True):
    """pool.json."""

    pool_id: Pool
    tenant_id: Tenant
    instance_resources: Resources
    runtime_policy: RuntimePolicy = RuntimePolicy()
    role: str = "worker"
    snapshot_compression: Literal["none", "lz4", "zstd"] = "none"
    metadata_enabled: bool = False


class InstanceNet(msgspec.Struct, frozen=True, kw_only=True):
    """An instance's place in its tenant's network."""

    tap_dev: str
    mac: str
    guest_ip: str
    gateway_ip: str
    cidr: int


class InstanceFields(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of instance.json that hostd reads."""

    instance_id: Instance
    pool_id: Pool
    tenant_id: Tenant
    status: Status
    net: InstanceNet | None = None
    revision_hash: str | None = None
    firecracker_pid: int | None = None


class InstanceDoc(msgspec.Struct, frozen=True, kw_only=True):
    """instance.json: the known fields, and the whole document they were read from."""

    fields: InstanceFields
    whole: dict[str, Any]

    def changed(self, **values: Any) -> InstanceDoc:
        """The document with some keys set; the others, known or not, stay."""
        whole = self.whole | msgspec.to_builtins(values)
        return InstanceDoc(fields=msgspec.convert(whole, InstanceFields), whole=whole)


def parse_instance(raw: bytes) -> InstanceDoc:
    """The instance document in `raw`.

    Raises:
        msgspec.DecodeError: not JSON, or a field of the wrong form.
    """
    whole = msgspec.json.decode(raw, type=dict[str, Any])
    return InstanceDoc(fields=msgspec.convert(whole, InstanceFields), whole=whole)
