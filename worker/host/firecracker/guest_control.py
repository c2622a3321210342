"""Controls an instance's guest through its living VMM, and keeps the marks beside it.

Each call finds the VMM again, so a VMM that has ended is never mistaken for a silent one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from worker.errors import Broken, HostdError, Transient
from worker.host.disks.fscrypt import EncryptedDirectory
from worker.host.firecracker import clock, guest_calls, marks, vmm_record
from worker.host.firecracker.api.client import Api
from worker.host.firecracker.finder import Finder
from worker.host.firecracker.jail.files import disk_errors
from worker.host.firecracker.jail.jail import Jail
from worker.host.firecracker.jail.snapshot_output import SnapshotOutput
from worker.host.firecracker.launch import exit_error
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import ImageFiles, VmmState, VmSpec


class GuestControl:
    """The part of the port `Vmm` that concerns the guest; `jail` returns an instance's jail."""

    def __init__(self, layout: Layout, finder: Finder, jail: Callable[[InstanceRef], Jail]) -> None:
        self._layout = layout
        self._finder = finder
        self._jail = jail
        self._clocks = clock.GuestClocks()

    def state(self, ref: InstanceRef, *, fresh: bool) -> VmmState:
        vmm = self._finder.open_vmm(ref)
        if vmm is None:
            return VmmState.GONE
        with vmm:
            try:
                with self._finder.connect(ref, partial(self._jail, ref), vmm) as api:
                    return api.state(fresh=fresh)
            except HostdError:
                if vmm.alive():
                    raise
                return VmmState.GONE

    def ask_to_stop(self, ref: InstanceRef, *, timeout_s: float) -> bool:
        """Does not wait for a VMM that refuses or does not answer."""
        vmm = self._finder.open_vmm(ref)
        if vmm is None:
            return True
        with vmm:
            try:
                with self._finder.connect(ref, partial(self._jail, ref), vmm) as api:
                    guest_calls.ask_to_stop(api)
            except HostdError:
                timeout_s = 0.0
            gone = vmm.wait(timeout_s=timeout_s)
            if gone:
                vmm.exit_code()
            return gone

    def boot(self, spec: VmSpec) -> None:
        with self._with(spec.ref) as api:
            guest_calls.boot(api, spec)
            api.assume_state(VmmState.RUNNING)

    def pause(self, ref: InstanceRef) -> None:
        marks.before_pause(self._layout.runtime(ref))
        with self._with(ref) as api:
            guest_calls.pause(api)

    def resume(self, ref: InstanceRef) -> None:
        marks.before_resume(self._layout.runtime(ref))
        with self._with(ref) as api:
            guest_calls.resume(api)
            api.assume_state(VmmState.RUNNING)

    def snapshot_output(self, spec: VmSpec) -> SnapshotOutput:
        """Where the guest's snapshots leave its jail."""
        directory = EncryptedDirectory.of(self._layout, spec.ref.tenant_id)
        return SnapshotOutput(self._jail(spec.ref), spec.uid, directory)

    def snapshot(self, spec: VmSpec) -> ImageFiles:
        """A refusal on a full disk is Transient `no_space`."""
        jail = self._jail(spec.ref)
        try:
            with self._with(spec.ref) as api, disk_errors():
                files = guest_calls.snapshot(api, spec, self.snapshot_output(spec))
        except Broken as error:
            if error.code != "broken/vmm_refused" or not guest_calls.disk_full(jail):
                raise
            raise Transient("no_space", error.message, path=str(jail.home)) from error
        marks.after_snapshot(self._layout.runtime(spec.ref))
        return files

    def load(self, spec: VmSpec) -> None:
        """After a refusal Firecracker ends by itself."""
        runtime = self._layout.runtime(spec.ref)
        marks.put(runtime, marks.RESTORED)
        with (
            self._clocks.advance(spec.ref, vmm_record.version_of(runtime)) as forward,
            self._with(spec.ref) as api,
        ):
            guest_calls.load(api, clock_realtime=forward)

    @contextmanager
    def _with(self, ref: InstanceRef) -> Iterator[Api]:
        vmm = self._finder.open_vmm(ref)
        if vmm is None:
            raise exit_error("Firecracker", None, self._layout.runtime(ref))
        with vmm, self._finder.connect(ref, partial(self._jail, ref), vmm) as api:
            yield api
