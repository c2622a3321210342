"""Firecracker under its jailer: implements the port `Vmm`.

VMMs are not remembered between calls, except while they are launched.  Each call finds the VMM by
its record or, if hostd died between start and record, by the jail's pid file and the control group,
and opens its pidfd.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

from worker.errors import Broken, Transient
from worker.host.firecracker import guest_calls, vmm_record
from worker.host.firecracker.binary import Binary, Programs
from worker.host.firecracker.finder import Finder
from worker.host.firecracker.guest_control import GuestControl
from worker.host.firecracker.jail import jailer, logs
from worker.host.firecracker.jail.files import Access, disk_errors, files_of, log_of
from worker.host.firecracker.jail.jail import Jail, remove
from worker.host.firecracker.jail.scan import jails_in, mounts_in_jails
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput
from worker.host.firecracker.launch import Launch
from worker.linux import processes
from worker.linux.processes import Process
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import ImageFiles, Platform, VmmState, VmSpec


class Firecracker:
    """`firecracker` and `jailer` are the operator's programs, with the digests that they must have.

    `api_timeout_s` bounds an API call (Firecracker itself allows 0.7 s; snapshots get more),
    `spawn_timeout_s` the time from the jailer's start until the API answers.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        firecracker: Path,
        jailer: Path,
        firecracker_sha256: str = "",
        jailer_sha256: str = "",
        api_timeout_s: float = 5.0,
        spawn_timeout_s: float = 10.0,
    ) -> None:
        self._layout = layout
        self._firecracker = Binary(firecracker, "firecracker", firecracker_sha256)
        self._jailer = Binary(jailer, "jailer", jailer_sha256)
        self._programs = Programs(self._firecracker, self._jailer)
        self._spawn_timeout_s = spawn_timeout_s
        self._finder = Finder(layout, api_timeout_s=api_timeout_s, settle_s=spawn_timeout_s)
        self._guest = GuestControl(layout, self._finder, self._jail)
        self._launches: dict[InstanceRef, Launch] = {}  # of this hostd, not up yet

    # -------------------------------------------------------------- state

    def state(self, ref: InstanceRef, *, fresh: bool = False) -> VmmState:
        if ref in self._launches:
            return VmmState.GONE
        return self._guest.state(ref, fresh=fresh)

    def pid(self, ref: InstanceRef) -> int | None:
        vmm = self.open_vmm(ref)
        if vmm is None:
            return None
        with vmm:
            return vmm.pid

    def open_vmm(self, ref: InstanceRef) -> Process | None:
        return None if ref in self._launches else self._finder.open_vmm(ref)

    def describe_exit(self, exit_code: int | None) -> str:
        return jailer.describe_exit(exit_code)

    def vsock(self, ref: InstanceRef) -> Path:
        """Where the guest's vsock device listens; the path is too long for connect(2)."""
        return self._jail(ref).root / guest_calls.VSOCK

    def trim_logs(self) -> None:
        logs.trim_all(self._layout.state)

    # -------------------------------------------------------------- the jail

    def jail_is_fresh(
        self,
        spec: VmSpec,
        image: ImageFiles | None = None,
        *,
        unfinished: frozenset[str] = frozenset(),
    ) -> bool:
        if self.pid(spec.ref) is not None:
            return True
        files = (*files_of(spec, image, unfinished), log_of(self._layout.runtime(spec.ref)))
        return self._new_jail(spec.ref).is_fresh(files, spec)

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        jail = self._finder.jail(ref)
        return None if jail is None else jail.spec()

    def jail_exists(self, ref: InstanceRef) -> bool:
        places = self._layout.jail_base(ref), self._layout.runtime(ref)
        return any(os.path.lexists(path) for path in places)

    def jails(self) -> frozenset[InstanceRef]:
        return jails_in(self._layout)

    def mounts(self) -> frozenset[InstanceRef]:
        return mounts_in_jails(self._layout)

    def build_jail(
        self, spec: VmSpec, image: ImageFiles | None, *, unfinished: frozenset[str] = frozenset()
    ) -> None:
        self._finder.refuse_in_use(spec.ref)
        jail = self._new_jail(spec.ref)
        with disk_errors():
            runtime = self._layout.runtime(spec.ref)
            shutil.rmtree(runtime, ignore_errors=True)
            runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = log_of(runtime)
            log.source.touch(mode=0o600)
            jail.build((*files_of(spec, image, unfinished), log), spec)

    def remove_jail(self, ref: InstanceRef) -> None:
        self._finder.refuse_in_use(ref)
        self._finder.connections.drop(ref)
        remove(self._layout.jail_base(ref))
        shutil.rmtree(self._layout.runtime(ref), ignore_errors=True)

    # -------------------------------------------------------------- the process

    def launched(self, ref: InstanceRef) -> bool:
        return ref in self._launches or self.pid(ref) is not None

    def launch(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        runtime = self._layout.runtime(spec.ref)
        deadline = time.monotonic() + self._spawn_timeout_s
        jail = self._new_jail(spec.ref)
        program, jail_program = self._programs.checked()
        with disk_errors():
            argv = jailer.command(spec, jail, jailer=jail_program, firecracker=program)
        intent = vmm_record.StartIntent(
            boot_id=processes.boot_id(), join_files=tuple(map(str, join_files))
        )
        vmm_record.write_intent(runtime, intent)
        launch = Launch(jail, join_files, runtime=runtime, deadline=deadline)
        launch.begin(argv)
        self._launches[spec.ref] = launch

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        if spec.ref not in self._launches:
            self.launch(spec, join_files)
        with self._launches.pop(spec.ref).finish() as vmm:
            try:
                self._finder.put_on_record(spec.ref, self._new_jail(spec.ref), vmm)
            except BaseException:
                vmm.signal(signal.SIGKILL)
                vmm.wait(timeout_s=self._spawn_timeout_s)
                vmm.exit_code()
                raise

    def kill(self, ref: InstanceRef, *, timeout_s: float) -> None:
        if (launch := self._launches.pop(ref, None)) is not None:
            launch.abandon()
        self._finder.connections.drop(ref)
        vmm = self.open_vmm(ref)
        if vmm is None:
            return
        with vmm:
            vmm.signal(signal.SIGKILL)
            if not vmm.wait(timeout_s=timeout_s):
                raise Transient(
                    "vmm_unkillable",
                    f"the VMM of {ref} outlived SIGKILL for {timeout_s:g} s",
                    hint="a process in uninterruptible sleep waits for a disk: see dmesg",
                    pid=vmm.pid,
                )
            vmm.exit_code()

    def ask_to_stop(self, ref: InstanceRef, *, timeout_s: float) -> bool:
        return self._guest.ask_to_stop(ref, timeout_s=timeout_s)

    # -------------------------------------------------------------- the guest

    def boot(self, spec: VmSpec) -> None:
        self._check_disks(spec)
        self._guest.boot(spec)

    def pause(self, ref: InstanceRef) -> None:
        self._guest.pause(ref)

    def resume(self, ref: InstanceRef) -> None:
        self._guest.resume(ref)

    def snapshot_reserved(self, spec: VmSpec) -> bool:
        return self._guest.snapshot_output(spec).room_reserved(spec.mem_mib << 20)

    def reserve_snapshot(self, spec: VmSpec) -> None:
        self._guest.snapshot_output(spec).reserve(spec.mem_mib << 20)

    def release_snapshot(self, ref: InstanceRef) -> None:
        SnapshotOutput(self._jail(ref), 0).release()

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        return self._guest.snapshot(spec)

    def load(self, spec: VmSpec) -> None:
        self._guest.load(spec)

    # -------------------------------------------------------------- the programs

    def check_programs(self) -> None:
        """Returns if both programs may be started; each `launch` checks this, too.

        Raises:
            Broken: `vmm_binary`.
        """
        self._programs.checked()

    def version(self) -> str:
        return self._firecracker.version()

    def platform(self) -> Platform:
        return self._programs.platform()

    def _check_disks(self, spec: VmSpec) -> None:
        """Raises if a disk in the jail is not the host's: what the guest writes would be lost.

        The host's disk may have been replaced after the jail was built.
        """
        own = tuple(file for file in files_of(spec) if file.access is Access.PRIVATE)
        if not self._jail(spec.ref).has_current(own):
            raise Broken(
                "jail_disks",
                f"a disk in the jail of {spec.ref} is not the one that the host has",
                hint="start the instance again: it gets a fresh jail",
            )

    def _new_jail(self, ref: InstanceRef) -> Jail:
        name = self._firecracker.path().name
        return Jail(self._layout.jail_base(ref), name, ref.instance_id)

    def _jail(self, ref: InstanceRef) -> Jail:
        return self._finder.jail(ref) or self._new_jail(ref)
