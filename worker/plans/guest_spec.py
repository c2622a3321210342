"""Derives the guest's spec, limits and disks from its documents.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

import msgspec

from enqueue.documents import PoolDoc
from enqueue.requests import TenantNet
from worker.errors import Conflict
from worker.model.names import InstanceRef, guest_ip, guest_mac, jail_uid, mapper_name, tap_name
from worker.plans.facts import InstanceFacts
from worker.plans.settings import Settings
from worker.ports import CryptSpec, DiskSpec, Drive, Limits, VmSpec

MIB = 1024 * 1024
CONFIG_DISK_MIB = 4
SECRETS_DISK_MIB = 16
DATA = "data"  # the data drive's id
DATA_DISK = "data.ext4"  # a LUKS container, too, has this name


@dataclass(frozen=True, slots=True)
class Place:
    """An instance's reserved place in its tenant's network."""

    net: TenantNet
    offset: int

    @property
    def tap(self) -> str:
        """The TAP's name."""
        return tap_name(self.net.tenant_net_id, self.offset)

    @property
    def mac(self) -> str:
        """The guest's MAC address."""
        return guest_mac(self.net.tenant_net_id, self.offset)

    @property
    def ip(self) -> str:
        """The guest's IPv4 address."""
        return guest_ip(self.net.ipv4_subnet, self.offset)

    def record(self) -> dict[str, object]:
        """The `net` of instance.json."""
        return {
            "tap_dev": self.tap,
            "mac": self.mac,
            "guest_ip": self.ip,
            "gateway_ip": self.net.gateway_ip,
            "cidr": IPv4Network(self.net.ipv4_subnet).prefixlen,
        }


def vm_spec(facts: InstanceFacts, pool: PoolDoc, place: Place, settings: Settings) -> VmSpec:
    """The spec of a guest that boots now, from the documents.

    Raises:
        Conflict: `no_artifacts`, the pool has no current revision.
    """
    if facts.artifacts is None:
        raise Conflict(
            "no_artifacts",
            f"pool {facts.ref.tenant_id}/{facts.ref.pool_id} has no current revision",
            hint="link artifacts/current to a revision that has vmlinux and rootfs.ext4",
        )
    volumes = settings.layout.volumes(facts.ref)
    resources = pool.instance_resources
    drives = [
        Drive("rootfs", facts.artifacts.rootfs, read_only=True, root=True, shared=True),
        Drive("config", volumes / "config.ext4", read_only=True),
    ]
    if resources.data_disk_mib:
        opened = facts.disk_key is not None
        source = settings.device(facts.ref) if opened else volumes / DATA_DISK
        drives.append(Drive(DATA, source, read_only=False, durable=True))
    drives.append(Drive("secrets", settings.secrets(facts.ref.instance_id), read_only=True))
    return VmSpec(
        ref=facts.ref,
        uid=jail_uid(settings.uid_base, place.net.tenant_net_id, place.offset),
        vcpus=resources.vcpus,
        mem_mib=resources.mem_mib,
        kernel=facts.artifacts.kernel,
        boot_args=_boot_args(place, console=settings.console),
        drives=tuple(drives),
        tap=place.tap,
        mac=place.mac,
        rx_limiter=pool.rate_limiters.network_rx,
        tx_limiter=pool.rate_limiters.network_tx,
    )


def _boot_args(place: Place, *, console: bool) -> str:
    """Firecracker appends `root=` itself.  Production has no console: a guest could fill it."""
    mask = IPv4Network(place.net.ipv4_subnet).netmask
    serial = "keep_bootcon console=ttyS0" if console else "8250.nr_uarts=0"
    ip = f"ip={place.ip}::{place.net.gateway_ip}:{mask}::eth0:off"
    return f"{serial} reboot=k panic=1 pci=off {ip}"


def limits(spec: VmSpec, *, overhead_mib: int) -> Limits:
    """Limits for the guest's and the VMM's memory, the vCPUs' time and the threads.

    The VMM has a thread a vCPU, two of its own and a kernel worker.
    """
    memory_mib = spec.mem_mib + max(overhead_mib, spec.mem_mib // 10)
    return Limits(
        memory_max_bytes=memory_mib * MIB,
        cpu_quota_us=spec.vcpus * 100_000,
        pids_max=spec.vcpus + 32,
    )


def data_disk(ref: InstanceRef, pool: PoolDoc, settings: Settings) -> DiskSpec:
    """The instance's persistent disk: sparse, made once."""
    size_mib = pool.instance_resources.data_disk_mib
    return DiskSpec(settings.layout.volumes(ref) / DATA_DISK, size_mib, "mvm-data")


def crypt_disk(spec: VmSpec, settings: Settings) -> CryptSpec | None:
    """How the guest's data disk is opened; None if it has no encrypted one.

    The guest's own spec decides: one that lives or sleeps keeps its disk as it is.
    """
    device, layout = settings.device(spec.ref), settings.layout
    if all(drive.source != device for drive in spec.drives):
        return None
    path, key = layout.volumes(spec.ref) / DATA_DISK, layout.disk_key(spec.ref.tenant_id)
    return CryptSpec(path, mapper_name(spec.ref), key)


def config_disk(ref: InstanceRef, pool: PoolDoc, place: Place, settings: Settings) -> DiskSpec:
    """The disk that tells the guest about itself."""
    policy = pool.runtime_policy
    content = {
        "instance_id": ref.instance_id,
        "pool_id": ref.pool_id,
        "tenant_id": ref.tenant_id,
        "guest_ip": place.ip,
        "vcpus": pool.instance_resources.vcpus,
        "mem_mib": pool.instance_resources.mem_mib,
        "min_runtime_policy": {
            "min_running_seconds": policy.min_running_seconds,
            "min_warm_seconds": policy.min_warm_seconds,
        },
    }
    path = settings.layout.volumes(ref) / "config.ext4"
    files = {"config.json": (msgspec.json.encode(content), 0o444)}
    return DiskSpec(path, CONFIG_DISK_MIB, "mvm-config", mode=0o644, files=files)


def secrets_disk(facts: InstanceFacts, settings: Settings) -> DiskSpec:
    """The tenant's secrets, in memory only."""
    path = settings.secrets(facts.ref.instance_id)
    files = {"secrets.json": (facts.secrets, 0o400)}
    return DiskSpec(path, SECRETS_DISK_MIB, "mvm-secrets", files=files)
