"""What hostd needs from the machine, as small protocols.

Steps see only these.  The adapters that touch the kernel are in `worker.host`; each has a fake in
`tests.fakes`, and both pass the port's contract suite in `tests/contract`.  An adapter speaks the
domain, translates errno at its edge, and treats "already gone" on removal as success.  Methods
that change something are idempotent where the docstring does not say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from enqueue.requests import InstanceId
from worker.documents import InstanceDoc, PoolDoc, TenantDoc
from worker.names import InstanceRef

# ------------------------------------------------------------------ network devices


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge as the kernel shows it.  `mark` is its alias, `hostd:<tenant>` on ours."""

    name: str
    up: bool
    addresses: frozenset[str]  # "10.240.5.1/24"
    mac: str
    mark: str
    forwarding: bool


@dataclass(frozen=True, slots=True)
class Tap:
    """A TAP device as the kernel shows it.  `bridge` is the bridge it is a port of."""

    name: str
    up: bool
    owner_uid: int | None
    bridge: str | None
    mark: str


class Links(Protocol):
    """Network devices of the namespace that hostd runs in."""

    def bridge(self, name: str) -> Bridge | None:
        """The bridge of that name.

        Raises:
            Conflict: `foreign_device`, a device of that name is no bridge.
        """

    def put_bridge(self, name: str, *, address: str, mac: str, mark: str) -> None:
        """The bridge exists, is up, has exactly this IPv4 address (`a.b.c.d/24`), MAC and mark,
        and forwards IPv4.

        Raises:
            Conflict: `foreign_device`, the name is taken by something without this mark.
        """

    def tap(self, name: str) -> Tap | None:
        """The TAP of that name.

        Raises:
            Conflict: `foreign_device`, a device of that name is no TAP.
        """

    def put_tap(self, name: str, *, owner_uid: int, bridge: str, mark: str) -> None:
        """The persistent TAP exists, is up, belongs to the uid and is a port of the bridge.

        A TAP of ours with another owner is made anew.

        Raises:
            Conflict: `foreign_device`, the name is taken by something without this mark.
            Conflict: `no_bridge`, there is no bridge of that name.
        """

    def delete(self, name: str) -> None:
        """No device of that name is left; waits, bounded, until it is really gone.

        Raises:
            Conflict: `foreign_device`, the device carries no mark of hostd's.
        """

    def ports(self, bridge: str) -> frozenset[str]:
        """Names of the devices attached to the bridge; none if there is no such bridge."""

    def marked(self) -> Mapping[str, str]:
        """Every device with a mark of hostd's: name to mark."""

    def forwarding(self) -> bool:
        """Whether the namespace forwards IPv4 (`net.ipv4.ip_forward`)."""

    def enable_forwarding(self) -> None:
        """The namespace forwards IPv4."""


# ------------------------------------------------------------------ packet filter


@dataclass(frozen=True, slots=True)
class TenantRules:
    """What decides the packet rules of one tenant.

    Guests may reach the internet through `uplink` (any device that is no tenant's bridge if
    empty), masqueraded, and their own gateway's metadata port; never another tenant, never
    169.254.169.254 nor another link-local address, never the host's other ports.  Packets from
    the bridge with a source outside the subnet are dropped.
    """

    tenant_id: str
    tenant_net_id: int
    bridge: str
    subnet: str
    gateway_ip: str
    uplink: str
    metadata_port: int


class Firewall(Protocol):
    """nftables, in a table of hostd's own.

    Any call may raise Broken `nftables`; one that changes, also Transient `firewall_busy`.
    """

    def stands(self, rules: TenantRules) -> bool:
        """Whether the kernel holds exactly what `put` would write for this tenant."""

    def put(self, rules: TenantRules) -> None:
        """All rules of the tenant stand, replaced in one transaction."""

    def remove(self, tenant_net_id: int) -> None:
        """No rule, chain or map element of the tenant is left; one transaction."""

    def tenants(self) -> frozenset[int]:
        """Net ids of which anything is left in hostd's table."""


# ------------------------------------------------------------------ control groups


@dataclass(frozen=True, slots=True)
class Limits:
    """An instance's limits: memory in bytes, CPU in microseconds per 100 ms, tasks."""

    memory_max_bytes: int
    cpu_quota_us: int
    pids_max: int


class Cgroups(Protocol):
    """One control group an instance, below hostd's parent."""

    def limits(self, instance: InstanceId) -> Limits | None:
        """The limits in force, read back from the kernel; None without a complete group."""

    def put(self, instance: InstanceId, limits: Limits) -> None:
        """The group exists with these limits.

        Raises:
            Broken: `cgroup`, the kernel did not take a limit; facts name the file.
        """

    def join_files(self, instance: InstanceId) -> tuple[Path, ...]:
        """The `cgroup.procs` files that a process writes its pid to, to be in the group."""

    def pids(self, instance: InstanceId) -> frozenset[int]:
        """Members of the group, in hostd's pid namespace; none without a group."""

    def kill(self, instance: InstanceId, *, timeout_s: float) -> None:
        """No process of the group is left.

        Raises:
            Transient: `cgroup_busy`, some outlived the timeout; facts name them.
        """

    def remove(self, instance: InstanceId) -> None:
        """The (empty) group is gone from every hierarchy.

        Raises:
            Transient: `cgroup_busy`, it still has members.
        """

    def instances(self) -> frozenset[InstanceId]:
        """Every instance that has a group in any hierarchy."""


# ------------------------------------------------------------------ disks


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """An ext4 image: `files` maps a name in its root directory to (bytes, mode)."""

    path: Path
    size_mib: int
    label: str
    mode: int = 0o600
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)


class Disks(Protocol):
    """ext4 images, and the memory-backed directory for secrets."""

    def label(self, path: Path) -> str | None:
        """The label of the ext4 image at `path`; None if there is no whole ext4 image."""

    def holds(self, spec: DiskSpec) -> bool:
        """Whether the whole image at `spec.path` has this size, label and these files: its ext4
        UUID is derived from the files' names, modes and bytes."""

    def same(self, source: Path, target: Path) -> bool:
        """Whether both are there with the same bytes."""

    def make(self, spec: DiskSpec) -> None:
        """A new image is at `spec.path`, durable, whole or not at all (built aside, renamed).

        It replaces what is there: the caller looks first.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool failed; the message carries what it said.
        """

    def secrets_path(self, instance: InstanceId) -> Path:
        """Where the instance's secrets disk lies while its guest runs: on a tmpfs."""

    def copy(self, source: Path, target: Path) -> None:
        """`target` has the bytes of `source`, durable, whole or not at all; mode 0600.

        Raises:
            Transient: `no_space`.
        """

    def remove(self, path: Path) -> None:
        """Nothing is at `path` (a file or a directory tree), durably."""

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """The blocks of the file, or of every file below the directory, are discarded, then it is
        removed, durably; returns a receipt `{"bytes", "files", "method"}`."""

    def exists(self, path: Path) -> bool:
        """Whether anything is at `path`."""


# ------------------------------------------------------------------ documents


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
        """instance.json is `doc`, durable, whole or as it was.

        Raises:
            Transient: `no_space`.
        """

    def instances(self) -> tuple[InstanceRef, ...]:
        """Every instance with a document on this host."""

    def artifacts(self, tenant_id: str, pool_id: str) -> Artifacts | None:
        """The pool's current revision; None if `artifacts/current` is no symlink to a whole one."""

    def secrets(self, tenant_id: str) -> bytes:
        """The bytes of secrets.json; `{}` if there is none."""


# ------------------------------------------------------------------ the VMM


class VmmState(Enum):
    """What the instance's VMM is doing."""

    GONE = "gone"  # no such process
    IDLE = "idle"  # a process, no guest yet ("Not started")
    RUNNING = "running"
    PAUSED = "paused"
    HUNG = "hung"  # a process that does not answer; never told by an adapter, only put on facts


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the guest; `source` is its path on the host, `id` also its name in the jail."""

    id: str
    source: Path
    read_only: bool
    root: bool = False
    shared: bool = False  # used by several guests: linked or copied, never chowned
    durable: bool = False  # the guest's flushes reach the disk (cache_type Writeback)


@dataclass(frozen=True, slots=True)
class VmSpec:
    """Everything that decides how a guest is built; plain data, a function of the record."""

    ref: InstanceRef
    uid: int
    vcpus: int
    mem_mib: int
    kernel: Path
    boot_args: str
    drives: tuple[Drive, ...]
    tap: str
    mac: str
    guest_cid: int = 3


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Where the driver wrote a snapshot: on the same filesystem as the image directory."""

    vmstate: Path
    memory: Path


class Vmm(Protocol):
    """Firecracker under its jailer; an instance is addressed by its id, never by a handle.

    Whichever call talks to a VMM may raise Transient `vmm_timeout` (it lives, but did not answer
    in time), Broken `vmm_refused` (it answered with an error, which the message carries) or
    Broken `vmm_exited` (it has ended; facts carry the exit code, where known, and a log tail).
    """

    def warm(self) -> None:
        """The first start need not wait for what is loaded late; for a worker that is idle."""

    def state(self, ref: InstanceRef) -> VmmState:
        """What the VMM does; death is what its pidfd says, never a timed-out API."""

    def pid(self, ref: InstanceRef) -> int | None:
        """The verified VMM's pid in hostd's namespace; None if it is gone."""

    def jail_is_fresh(self, spec: VmSpec) -> bool:
        """Whether a whole jail stands that no VMM has used yet, or the VMM lives in it."""

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        """What the standing jail was built from; it stays true as long as the VMM lives."""

    def jail_exists(self, ref: InstanceRef) -> bool:
        """Whether anything that `remove_jail` removes is there."""

    def build_jail(self, spec: VmSpec, image: ImageFiles | None) -> None:
        """A fresh jail stands, with kernel, drives and (for a wake) the image's files in it.

        Raises:
            Transient: `no_space`.
            Conflict: `missing_file`, a file that the guest needs is not there.
        """

    def remove_jail(self, ref: InstanceRef) -> None:
        """No jail, no mount below it, no runtime file is left.  The VMM must be gone.

        Raises:
            Transient: `jail_in_use`, it or another process of its start lives.
        """

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """A VMM process is up in its jail and control group, its API answers, and its identity
        is on record.  Not idempotent: the caller looks first.

        Raises:
            Broken: `vmm_exited`, it ended at once; facts carry exit code and log tail.
            Transient: `vmm_timeout`, it did not come up in time; it was killed.
        """

    def boot(self, spec: VmSpec) -> None:
        """The guest is configured and started."""

    def pause(self, ref: InstanceRef) -> None:
        """The vCPUs stand still."""

    def resume(self, ref: InstanceRef) -> None:
        """The vCPUs run."""

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        """The paused guest's state and memory are in files of the right size, fsynced, that the
        VMM can no longer reach by name; an earlier snapshot's are gone.

        Raises:
            Transient: `no_space`; the guest is still paused.
            Broken: `snapshot_incomplete`, accepted, but a file is missing or of another size.
        """

    def load(self, spec: VmSpec) -> None:
        """The image's state is loaded, the vCPUs stand still."""

    def ask_to_stop(self, ref: InstanceRef, *, timeout_s: float) -> bool:
        """The guest was asked to shut down; whether the VMM is gone within the timeout."""

    def kill(self, ref: InstanceRef, *, timeout_s: float) -> None:
        """The VMM's process is gone, by its pidfd.

        Raises:
            Transient: `vmm_unkillable`, it outlived the timeout.
        """

    def version(self) -> str:
        """Firecracker's version, as the configured binary reports it."""

    def binary_sha256(self) -> str:
        """The digest of the configured firecracker binary."""


# ------------------------------------------------------------------ sleep images


class ImageState(Enum):
    """How far an instance's sleep image has come."""

    NONE = "none"
    PUBLISHED = "published"  # durable and never loaded
    CONSUMED = "consumed"  # loaded once; never again
    DAMAGED = "damaged"  # never told by an adapter (`find` raises), only put on facts


@dataclass(frozen=True, slots=True)
class Image:
    """A published image; `manifest` is what was written when it was made."""

    state: ImageState
    files: ImageFiles
    secrets: Path | None
    manifest: Mapping[str, Any]


class Images(Protocol):
    """Sleep images in two phases: made in a partial generation, then renamed into place."""

    def find(self, ref: InstanceRef) -> Image | None:
        """The published or consumed image; None if there is none, or only a partial one.

        Raises:
            Lost: `image_damaged`, there is one, but its sizes, or the bytes of its vmstate, are
                not those of its manifest.
        """

    def anything(self, ref: InstanceRef) -> bool:
        """Whether anything that `discard` removes is there."""

    def reserve(self, ref: InstanceRef, size_bytes: int) -> None:
        """There is room for an image of that size.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
        """

    def complete(self, ref: InstanceRef, request_id: str) -> bool:
        """Whether the partial generation of that request is whole and durable."""

    def seal(
        self,
        ref: InstanceRef,
        request_id: str,
        files: ImageFiles,
        secrets: Path | None,
        manifest: Mapping[str, Any],
    ) -> None:
        """Files (moved), secrets (copied) and manifest are in the request's partial generation,
        all of it durable."""

    def publish(self, ref: InstanceRef, request_id: str) -> None:
        """The request's generation is the instance's image, durably."""

    def sync(self, ref: InstanceRef) -> None:
        """What `find` shows is durable: the last thing before a VMM is killed."""

    def consume(self, ref: InstanceRef) -> None:
        """The image is marked as used, durably; it can never be loaded again."""

    def discard(self, ref: InstanceRef) -> None:
        """No image and no partial generation is left, durably."""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that a plan runs against."""

    links: Links
    firewall: Firewall
    cgroups: Cgroups
    disks: Disks
    records: Records
    vmm: Vmm
    images: Images
