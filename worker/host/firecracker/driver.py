"""Firecracker under its jailer: the port `Vmm`.

Nothing is remembered between calls: each finds the VMM anew by its record, or, where hostd died
between start and record, by the jail's pid file and the control group, and holds its pidfd.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.errors import Broken, HostdError, Transient
from worker.host import processes
from worker.host.firecracker import guest, jailer, record
from worker.host.firecracker.api import Api, warm
from worker.host.firecracker.binary import Binary
from worker.host.firecracker.finding import Finder
from worker.host.firecracker.jail import Jail, remove
from worker.host.firecracker.placing import disk_errors, files_of, log_of
from worker.host.firecracker.starting import Start, exited
from worker.host.processes import Process
from worker.names import InstanceRef, Layout
from worker.ports import ImageFiles, VmmState, VmSpec


class Firecracker:
    """`firecracker` and `jailer` are the operator's programs.

    `api_timeout_s` bounds a call of the API (Firecracker itself allows 0.7 s; snapshots get more),
    `spawn_timeout_s` the way from the jailer's start to an API that answers.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        firecracker: Path,
        jailer: Path,
        api_timeout_s: float = 5.0,
        spawn_timeout_s: float = 10.0,
    ) -> None:
        self._layout = layout
        self._firecracker = Binary(firecracker, "firecracker")
        self._jailer = Binary(jailer, "jailer")
        self._spawn_timeout_s = spawn_timeout_s
        self._finder = Finder(layout, api_timeout_s=api_timeout_s, settle_s=spawn_timeout_s)

    def warm(self) -> None:
        """The first start need not wait for imports; for a worker that is up and idle."""
        warm()

    # -------------------------------------------------------------- looking

    def state(self, ref: InstanceRef) -> VmmState:
        """See `Vmm.state`."""
        vmm = self.hold(ref)
        if vmm is None:
            return VmmState.GONE
        with vmm:
            try:
                with self._finder.conversation(ref, self._jail(ref), vmm) as api:
                    return api.state()
            except HostdError:
                if vmm.alive():
                    raise
                return VmmState.GONE

    def pid(self, ref: InstanceRef) -> int | None:
        """See `Vmm.pid`."""
        vmm = self.hold(ref)
        if vmm is None:
            return None
        with vmm:
            return vmm.pid

    def hold(self, ref: InstanceRef) -> Process | None:
        """The verified VMM, held by its pidfd, for the caller to close; None if it is gone.

        The pidfd becomes readable when the VMM ends.
        """
        return self._finder.hold(ref)

    def vsock(self, ref: InstanceRef) -> Path:
        """Where the guest's vsock device listens; too long a path to connect to as it is."""
        return self._jail(ref).root / guest.VSOCK

    def log_tail(self, ref: InstanceRef) -> str:
        """The last 2 KiB of what the jailer and the VMM said."""
        return jailer.log_tail(self._layout.runtime(ref))

    # -------------------------------------------------------------- the jail

    def jail_is_fresh(self, spec: VmSpec) -> bool:
        """See `Vmm.jail_is_fresh`."""
        if self.pid(spec.ref) is not None:
            return True
        files = (*files_of(spec), log_of(self._layout.runtime(spec.ref)))
        return self._new_jail(spec.ref).holds(files, spec)

    def spec(self, ref: InstanceRef) -> VmSpec | None:
        """See `Vmm.spec`."""
        jail = self._finder.jail(ref)
        return None if jail is None else jail.spec()

    def jail_exists(self, ref: InstanceRef) -> bool:
        """See `Vmm.jail_exists`."""
        layout = self._layout
        return any(os.path.lexists(path) for path in (layout.jail_base(ref), layout.runtime(ref)))

    def build_jail(self, spec: VmSpec, image: ImageFiles | None) -> None:
        """See `Vmm.build_jail`."""
        self._finder.refuse_in_use(spec.ref)
        jail = self._new_jail(spec.ref)
        with disk_errors():
            runtime = self._layout.runtime(spec.ref)
            shutil.rmtree(runtime, ignore_errors=True)
            runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = log_of(runtime)
            log.source.touch(mode=0o600)
            jail.build((*files_of(spec, image), log), spec)

    def remove_jail(self, ref: InstanceRef) -> None:
        """See `Vmm.remove_jail`."""
        self._finder.refuse_in_use(ref)
        remove(self._layout.jail_base(ref))
        shutil.rmtree(self._layout.runtime(ref), ignore_errors=True)

    # -------------------------------------------------------------- the process

    def spawn(self, spec: VmSpec, join_files: tuple[Path, ...]) -> None:
        """See `Vmm.spawn`."""
        runtime = self._layout.runtime(spec.ref)
        deadline = time.monotonic() + self._spawn_timeout_s
        jail = self._new_jail(spec.ref)
        program, jail_program = self._firecracker.path(), self._jailer.path()
        with disk_errors():
            argv = jailer.command(spec, jail, jailer=jail_program, firecracker=program)
        intent = record.Started(boot_id=processes.boot_id(), join_files=tuple(map(str, join_files)))
        record.put_started(runtime, intent)
        start = Start(jail, join_files, runtime=runtime, deadline=deadline)
        with start.run(argv) as vmm:
            try:
                self._finder.put_on_record(spec.ref, jail, vmm)
            except BaseException:
                vmm.signal(signal.SIGKILL)
                vmm.wait(timeout_s=self._spawn_timeout_s)
                vmm.exit_code()
                raise

    def kill(self, ref: InstanceRef, *, timeout_s: float) -> None:
        """See `Vmm.kill`."""
        vmm = self.hold(ref)
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
        """See `Vmm.ask_to_stop`; a VMM that refuses or does not answer is not waited for."""
        vmm = self.hold(ref)
        if vmm is None:
            return True
        with vmm:
            try:
                with self._finder.conversation(ref, self._jail(ref), vmm) as api:
                    guest.ask_to_stop(api)
            except HostdError:
                timeout_s = 0.0
            gone = vmm.wait(timeout_s=timeout_s)
            if gone:
                vmm.exit_code()
            return gone

    # -------------------------------------------------------------- the guest

    def boot(self, spec: VmSpec) -> None:
        """See `Vmm.boot`."""
        with self._conversation(spec.ref) as api:
            guest.boot(api, spec)

    def pause(self, ref: InstanceRef) -> None:
        """See `Vmm.pause`."""
        with self._conversation(ref) as api:
            guest.pause(api)

    def resume(self, ref: InstanceRef) -> None:
        """See `Vmm.resume`."""
        with self._conversation(ref) as api:
            guest.resume(api)

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        """See `Vmm.snapshot`; a refusal on a full disk is Transient `no_space`."""
        jail = self._jail(spec.ref)
        try:
            with self._conversation(spec.ref) as api, disk_errors():
                return guest.snapshot(api, spec, jail)
        except Broken as error:
            if error.code != "broken/vmm_refused" or not guest.disk_full(jail):
                raise
            raise Transient("no_space", error.message, path=str(jail.home)) from error

    def load(self, spec: VmSpec) -> None:
        """See `Vmm.load`; after a refusal Firecracker ends by itself."""
        with self._conversation(spec.ref) as api:
            guest.load(api, spec)

    # -------------------------------------------------------------- the programs

    def version(self) -> str:
        """See `Vmm.version`."""
        return self._firecracker.version()

    def binary_sha256(self) -> str:
        """See `Vmm.binary_sha256`."""
        return self._firecracker.sha256()

    # -------------------------------------------------------------- inside

    def _new_jail(self, ref: InstanceRef) -> Jail:
        name = self._firecracker.path().name
        return Jail(self._layout.jail_base(ref), name, ref.instance_id)

    def _jail(self, ref: InstanceRef) -> Jail:
        return self._finder.jail(ref) or self._new_jail(ref)

    @contextmanager
    def _conversation(self, ref: InstanceRef) -> Iterator[Api]:
        vmm = self.hold(ref)
        if vmm is None:
            raise exited("Firecracker", None, self._layout.runtime(ref))
        with vmm, self._finder.conversation(ref, self._jail(ref), vmm) as api:
            yield api
