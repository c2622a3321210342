"""The port of the VMM: Firecracker in its jail."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from enqueue.documents import RateLimiter
from worker.model.names import InstanceRef


class VmmState(Enum):
    """What the instance's VMM is doing."""

    GONE = "gone"  # no such process
    IDLE = "idle"  # a process, no guest yet ("Not started")
    RUNNING = "running"
    PAUSED = "paused"
    HUNG = "hung"  # a process that does not answer; only facts have it, no adapter returns it


@dataclass(frozen=True, slots=True)
class Platform:
    """Program, processor and kernel; every field is as the kernel or the program spells it.

    On aarch64 the processor's implementer, architecture, part and variant stand for vendor,
    family, model and stepping.
    """

    firecracker_version: str
    firecracker_sha256: str
    snapshot_format: str
    architecture: str
    cpu_vendor: str
    cpu_family: str
    cpu_model: str
    cpu_stepping: str
    kernel: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk of the guest; `source` is its path on the host, `id` also its name in the jail."""

    id: str
    source: Path
    read_only: bool
    root: bool = False
    shared: bool = False  # used by several guests: linked or copied, never chowned
    durable: bool = False  # the guest's flushes reach the disk (cache_type Writeback)
    limiter: RateLimiter | None = None


@dataclass(frozen=True, slots=True)
class VmSpec:
    """All settings that a guest is built from; plain data, computed from the record."""

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
    rx_limiter: RateLimiter | None = None  # for what the guest receives; tx: what it sends
    tx_limiter: RateLimiter | None = None


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """A snapshot's files, on the same filesystem as the image directory."""

    vmstate: Path
    memory: Path


class VmmProcess(Protocol):
    """A VMM's process, open by a pidfd: it always means this process, even if its pid is reused."""

    pid: int

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process ends."""

    def exit_code(self) -> int | None:
        """Reaps the ended process and returns its exit code (-n: signal n).

        None if it cannot be known, because the process is not a child of this hostd.
        """

    def close(self) -> None:
        """Closes the pidfd; the process keeps running."""


class Vmm(Protocol):
    """Firecracker under its jailer; an instance is addressed by its id, never by a handle.

    Each call that talks to a VMM may raise Transient `vmm_timeout` (it lives, but did not answer
    in time), Broken `vmm_refused` (it answered with an error, which is in the message) or Broken
    `vmm_exited` (it has ended; facts: the exit code, where known, and the end of its log).
    """

    def state(self, ref: InstanceRef, *, fresh: bool = False) -> VmmState:
        """The VMM's state.  GONE is decided by its pidfd, never by an API call that timed out.

        `fresh`: the VMM is asked again, even if it answered a moment ago.
        """

    def pid(self, ref: InstanceRef) -> int | None:
        """The verified VMM's pid in hostd's namespace; None if it is gone."""

    def open_vmm(self, ref: InstanceRef) -> VmmProcess | None:
        """The verified VMM, which the caller must close; None if it is gone."""

    def describe_exit(self, exit_code: int | None) -> str:
        """What an exit code means, in words."""

    def jail_is_fresh(
        self,
        spec: VmSpec,
        image: ImageFiles | None = None,
        *,
        unfinished: frozenset[str] = frozenset(),
    ) -> bool:
        """Whether a complete jail exists that no VMM has used yet, or the VMM runs in it.

        `unfinished`: ids of drives whose disks may not be complete yet (`Disks.begin`).  A jail
        for a boot is not fresh for a wake, nor the reverse, nor for another image.
        """

    def trim_logs(self) -> None:
        """Limits each VMM's log to one mebibyte of disk; its end is kept."""

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        """The spec that the existing jail was built from; it holds as long as the VMM lives."""

    def jail_exists(self, ref: InstanceRef) -> bool:
        """Whether anything exists that `remove_jail` removes."""

    def jails(self) -> frozenset[InstanceRef]:
        """Every instance with a jail, or with a record of a start; it may have no document."""

    def mounts(self) -> frozenset[InstanceRef]:
        """Every instance with a mount in its jail; it may have no document."""

    def build_jail(
        self, spec: VmSpec, image: ImageFiles | None, *, unfinished: frozenset[str] = frozenset()
    ) -> None:
        """Builds a fresh jail with kernel, drives and (for a wake) the image's files.

        For a drive in `unfinished` it takes the disk under construction, if there is no other.

        Raises:
            Transient: `no_space`.
            Conflict: `missing_file`, a file that the guest needs does not exist.
        """

    def remove_jail(self, ref: InstanceRef) -> None:
        """Removes the jail, all mounts below it and the runtime files.  The VMM must be gone.

        Raises:
            Transient: `jail_in_use`, the VMM or another process of its start lives.
        """

    def launched(self, ref: InstanceRef) -> bool:
        """Whether a VMM process of the instance is up, or was started by `launch`."""

    def launch(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """Starts a VMM process; then `spawn` waits for it, or `kill` ends it.

        Until then its state is GONE.  Not idempotent: the caller checks first.

        Raises:
            Conflict: `missing_file`.
            Broken: `vmm_binary`.
        """

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """A VMM process is up in its jail and control group, its API answers, and its identity
        is on record.  Not idempotent: the caller checks first.

        Raises:
            Broken: `vmm_exited`, it ended at once; facts: exit code and end of the log.
            Transient: `vmm_timeout`, it did not come up in time and was killed.
        """

    def boot(self, spec: VmSpec) -> None:
        """Configures and starts the guest.

        Raises:
            Transient: `vmm_timeout`.
            Broken: `vmm_refused`, `vmm_exited`; `jail_disks`, a disk in the jail is not the host's.
        """

    def pause(self, ref: InstanceRef) -> None:
        """Stops the vCPUs."""

    def resume(self, ref: InstanceRef) -> None:
        """Lets the vCPUs run."""

    def snapshot_reserved(self, spec: VmSpec) -> bool:
        """Whether the disk space for the next snapshot is reserved."""

    def reserve_snapshot(self, spec: VmSpec) -> None:
        """Reserves the disk space of a snapshot, in the files that it will be written to.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
            Conflict: `storage_not_encrypted`, the tenant has a key, but the files cannot be
                encrypted.
        """

    def release_snapshot(self, ref: InstanceRef) -> None:
        """Frees the reserved space, and deletes a snapshot's files that were not moved away."""

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        """The paused guest's state and memory, in fsynced files of the right size that the VMM
        can no longer open; those of an earlier snapshot are deleted.

        Raises:
            Transient: `no_space`; the guest is still paused.
            Broken: `snapshot_incomplete`, accepted, but a file is missing or of another size.
        """

    def load(self, spec: VmSpec) -> None:
        """Loads the image's state; the vCPUs do not run yet."""

    def ask_to_stop(self, ref: InstanceRef, *, timeout_s: float) -> bool:
        """Asks the guest to shut down; returns whether the VMM is gone within the timeout."""

    def kill(self, ref: InstanceRef, *, timeout_s: float) -> None:
        """Kills the VMM and waits until its pidfd says that it ended.

        Raises:
            Transient: `vmm_unkillable`, it still lives after the timeout.
        """

    def version(self) -> str:
        """Firecracker's version, as the configured binary reports it."""

    def platform(self) -> Platform:
        """What a guest's image depends on: this host's Firecracker, CPU and kernel."""
