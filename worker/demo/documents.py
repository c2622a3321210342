"""Writes what agentd writes before its first request: tenants, pools, instances, artifacts."""

from __future__ import annotations

from pathlib import Path

import msgspec

from enqueue.requests import InstanceId, PoolId, TenantId, TenantNet, bridge_name
from worker.model.layout import Layout
from worker.model.names import InstanceRef

POOL = PoolId("workers")
MEM_MIB = 128


def net(net_id: int) -> TenantNet:
    """A tenant's network."""
    return TenantNet(
        tenant_net_id=net_id,
        ipv4_subnet=f"10.240.{net_id}.0/24",
        gateway_ip=f"10.240.{net_id}.1",
        bridge_name=bridge_name(net_id),
    )


def write_tenant(
    layout: Layout, tenant: str, net_id: int, *, kernel: bytes, mem_mib: int = MEM_MIB
) -> None:
    """Writes a tenant with one pool, whose guests have no agent, and its current revision."""
    _write(
        layout.tenant(tenant) / "tenant.json",
        {"tenant_id": tenant, "net": msgspec.to_builtins(net(net_id))},
    )
    _write(layout.tenant(tenant) / "secrets.json", {"token": "only in memory"})
    resources = {"vcpus": 1, "mem_mib": mem_mib, "data_disk_mib": 64}
    policy = {"graceful_shutdown_seconds": 2, "guest_agent": False}
    pool = {
        "pool_id": POOL,
        "tenant_id": tenant,
        "instance_resources": resources,
        "desired_counts": {"running": 1, "warm": 0, "sleeping": 1},
        "runtime_policy": policy,
    }
    _write(layout.pool(tenant, POOL) / "pool.json", pool)
    revision = layout.artifacts(tenant, POOL) / "revisions" / "demo"
    revision.mkdir(parents=True)
    (revision / "vmlinux").write_bytes(kernel)
    with (revision / "rootfs.ext4").open("wb") as rootfs:
        rootfs.truncate(4 * 1024 * 1024)
    (layout.artifacts(tenant, POOL) / "current").symlink_to("revisions/demo")


def write_instance(layout: Layout, tenant: str, instance: str) -> InstanceRef:
    """Writes an instance in status `created`."""
    ref = InstanceRef(TenantId(tenant), POOL, InstanceId(instance))
    document = {
        "instance_id": instance,
        "pool_id": POOL,
        "tenant_id": tenant,
        "status": "created",
        "tags": {"demo": "yes"},
    }
    _write(layout.instance(ref) / "instance.json", document)
    return ref


def _write(path: Path, document: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.encode(document))
