"""The port of the VMM."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from enqueue.documents import RateLimiter
from worker.model.names import InstanceRef
from worker.ports.platform import Platform


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
    limiter: RateLimiter | None = None


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
    rx_limiter: RateLimiter | None = None  # what the guest receives; tx is what it sends
    tx_limiter: RateLimiter | None = None


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Where the driver wrote a snapshot: on the same filesystem as the image directory."""

    vmstate: Path
    memory: Path


class VmmProcess(Protocol):
    """A VMM's process, held so that its pid cannot become another's."""

    pid: int

    def fileno(self) -> int:
        """A descriptor that becomes readable when the process ends."""

    def exit_code(self) -> int | None:
        """The ended process's exit code (-n: signal n), reaping it; None if nobody can know: it is
        no child of this hostd."""

    def close(self) -> None:
        """It is held no more; the process goes on."""


class Vmm(Protocol):
    """Firecracker under its jailer; an instance is addressed by its id, never by a handle.

    Whichever call talks to a VMM may raise Transient `vmm_timeout` (it lives, but did not answer
    in time), Broken `vmm_refused` (it answered with an error, which the message carries) or
    Broken `vmm_exited` (it has ended; facts carry the exit code, where known, and a log tail).
    """

    def state(self, ref: InstanceRef, *, fresh: bool = False) -> VmmState:
        """What the VMM does; death is what its pidfd says, never a timed-out API.

        `fresh`: asked now, whatever a look just before has shown.
        """

    def pid(self, ref: InstanceRef) -> int | None:
        """The verified VMM's pid in hostd's namespace; None if it is gone."""

    def open_vmm(self, ref: InstanceRef) -> VmmProcess | None:
        """The verified VMM, for the caller to close; None if it is gone."""

    def describe_exit(self, exit_code: int | None) -> str:
        """What an exit code says, in words."""

    def jail_is_fresh(
        self,
        spec: VmSpec,
        image: ImageFiles | None = None,
        *,
        unfinished: frozenset[str] = frozenset(),
    ) -> bool:
        """Whether a whole jail stands that no VMM has used yet, or the VMM lives in it.

        `unfinished`: ids of drives whose disks may still be in the making (`Disks.begin`).  A jail
        for a boot is not fresh for a wake, nor the reverse, nor for another image.
        """

    def trim_logs(self) -> None:
        """No VMM's log takes more than a mebibyte of the disk; its last words are kept."""

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        """What the standing jail was built from; it stays true as long as the VMM lives."""

    def jail_exists(self, ref: InstanceRef) -> bool:
        """Whether anything that `remove_jail` removes is there."""

    def jails(self) -> frozenset[InstanceRef]:
        """Every instance of which a jail, or what a start wrote down, stands: on record or not."""

    def mounts(self) -> frozenset[InstanceRef]:
        """Every instance that has a mount in its jail: on record or not."""

    def build_jail(
        self, spec: VmSpec, image: ImageFiles | None, *, unfinished: frozenset[str] = frozenset()
    ) -> None:
        """A fresh jail stands, with kernel, drives and (for a wake) the image's files in it.

        For the drives `unfinished` it takes the disk that is being made, if there is no other.

        Raises:
            Transient: `no_space`.
            Conflict: `missing_file`, a file that the guest needs is not there.
        """

    def remove_jail(self, ref: InstanceRef) -> None:
        """No jail, no mount below it, no runtime file is left.  The VMM must be gone.

        Raises:
            Transient: `jail_in_use`, it or another process of its start lives.
        """

    def launched(self, ref: InstanceRef) -> bool:
        """Whether a VMM process of the instance is up, or on its way by `launch`."""

    def launch(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """A VMM process is on its way, to be awaited by `spawn` or ended by `kill`; until then it
        counts as gone.  Not idempotent: the caller looks first.

        Raises:
            Conflict: `missing_file`.
            Broken: `vmm_binary`.
        """

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """A VMM process is up in its jail and control group, its API answers, and its identity
        is on record.  Not idempotent: the caller looks first.

        Raises:
            Broken: `vmm_exited`, it ended at once; facts carry exit code and log tail.
            Transient: `vmm_timeout`, it did not come up in time; it was killed.
        """

    def boot(self, spec: VmSpec) -> None:
        """The guest is configured and started.

        Raises:
            Transient: `vmm_timeout`.
            Broken: `vmm_refused`, `vmm_exited`; `jail_disks`, a disk in the jail is not the host's.
        """

    def pause(self, ref: InstanceRef) -> None:
        """The vCPUs stand still."""

    def resume(self, ref: InstanceRef) -> None:
        """The vCPUs run."""

    def snapshot_reserved(self, spec: VmSpec) -> bool:
        """Whether the next snapshot's room is held."""

    def reserve_snapshot(self, spec: VmSpec) -> None:
        """The room that a snapshot of the guest needs is held for it, by the guest's own files.

        Raises:
            Transient: `no_space`, with the bytes needed and free.
            Conflict: `storage_not_encrypted`, the tenant has a key, and the room cannot be so.
        """

    def release_snapshot(self, ref: InstanceRef) -> None:
        """No room is held for a snapshot, and none that was not moved away is left."""

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

    def platform(self) -> Platform:
        """What a guest saved here depends on, and what one woken here will find."""
