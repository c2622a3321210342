"""The JSON documents of a host: the fields that hostd reads.

agentd writes tenant.json, pool.json, and instance.json with status `created`.  After that only
hostd changes an instance's status and runtime fields.  Keys that hostd does not know are kept: an
`InstanceDoc` has the whole document in `whole`, and hostd writes it back.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from enqueue.requests import Instance, Pool, Tenant, TenantNet

Status = Literal["created", "ready", "running", "warm", "sleeping", "stopped", "destroyed"]


def is_up(status: str | None) -> bool:
    """Whether the status says that the instance has a VMM."""
    return status in ("running", "warm")


Compression = Literal["none", "lz4", "zstd"]
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
    """The resources of each instance of a pool.  Firecracker allows 1..32 vCPUs."""

    vcpus: Annotated[int, msgspec.Meta(ge=1, le=32)]
    mem_mib: Positive
    data_disk_mib: Count = 0


class RuntimePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool's guests are treated; times in seconds."""

    min_running_seconds: Count = 60
    min_warm_seconds: Count = 30
    drain_timeout_seconds: Count = 30
    graceful_shutdown_seconds: Count = 15
    readiness_timeout_seconds: Count = 0  # 0: a start does not wait for the guest's agent
    guest_agent: bool = True  # false: the pool's guests have no agent, hostd does not call it


class TokenBucket(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Firecracker's token bucket: `size` tokens, full again in `refill_time` ms.

    Firecracker treats a bucket with size or time 0, or with a time past 2^64 ns, as no limit
    (src/vmm/src/rate_limiter/mod.rs), so such a bucket is refused here.
    """

    size: Positive
    refill_time: Annotated[int, msgspec.Meta(ge=1, le=18_446_744_073_709)]
    one_time_burst: Count | None = None


class RateLimiter(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Firecracker's rate limiter: for bytes, for operations, or for both."""

    bandwidth: TokenBucket | None = None
    ops: TokenBucket | None = None

    def __post_init__(self) -> None:
        if self.bandwidth is None and self.ops is None:
            raise ValueError("a rate limiter needs `bandwidth` or `ops`")


class RateLimiters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The rate limits of each instance of a pool; None: no limit.  `drive` is its data disk."""

    network_rx: RateLimiter | None = None
    network_tx: RateLimiter | None = None
    drive: RateLimiter | None = None


class PoolDoc(msgspec.Struct, frozen=True, kw_only=True):
    """pool.json."""

    pool_id: Pool
    tenant_id: Tenant
    instance_resources: Resources
    runtime_policy: RuntimePolicy = RuntimePolicy()
    rate_limiters: RateLimiters = RateLimiters()
    role: str = "worker"
    snapshot_compression: Compression = "none"
    snapshot_type: Literal["Full", "Diff"] = "Full"
    metadata_enabled: bool = False


class InstanceNet(msgspec.Struct, frozen=True, kw_only=True):
    """An instance's device and addresses in its tenant's network."""

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
        """The document with some keys set; all others, known or not, keep their values."""
        whole = self.whole | msgspec.to_builtins(values)
        return InstanceDoc(fields=msgspec.convert(whole, InstanceFields), whole=whole)


def parse_instance(raw: bytes) -> InstanceDoc:
    """The instance document in `raw`.

    Raises:
        msgspec.DecodeError: not JSON, or a field of the wrong form.
    """
    whole = msgspec.json.decode(raw, type=dict[str, Any])
    return InstanceDoc(fields=msgspec.convert(whole, InstanceFields), whole=whole)
