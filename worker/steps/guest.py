"""Steps over the VMM and its guest."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from worker.errors import HostdError
from worker.names import InstanceRef
from worker.ports import Host, VmmState, VmSpec
from worker.steps.base import IrrevocableError

log = logging.getLogger("hostd")

HAS_GUEST = (VmmState.RUNNING, VmmState.PAUSED)


@dataclass(frozen=True, slots=True)
class VmmSpawned:
    """A VMM of the instance is up in its jail and control group, and its identity on record."""

    spec: VmSpec
    kill_timeout_s: float
    name: str = "vmm_spawned"

    def done(self, host: Host) -> bool:
        return host.vmm.pid(self.spec.ref) is not None

    def apply(self, host: Host) -> None:
        host.vmm.spawn(self.spec, host.cgroups.join_files(self.spec.ref.instance_id))

    def undo(self, host: Host) -> None:
        _kill(self.spec.ref, host, self.kill_timeout_s)


@dataclass(frozen=True, slots=True)
class GuestBooted:
    """The guest was configured and started."""

    spec: VmSpec
    name: str = "guest_booted"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.spec.ref) in HAS_GUEST

    def apply(self, host: Host) -> None:
        host.vmm.boot(self.spec)

    def undo(self, host: Host) -> None:
        pass  # VmmSpawned's undo kills it


@dataclass(frozen=True, slots=True)
class GuestLoaded:
    """The image's state is loaded; the vCPUs stand still or run."""

    spec: VmSpec
    name: str = "guest_loaded"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.spec.ref) in HAS_GUEST

    def apply(self, host: Host) -> None:
        host.vmm.load(self.spec)

    def undo(self, host: Host) -> None:
        pass  # VmmSpawned's undo kills it; its vCPUs never ran


@dataclass(frozen=True, slots=True)
class GuestRunning:
    """The guest's vCPUs run."""

    ref: InstanceRef
    name: str = "guest_running"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.ref) is VmmState.RUNNING

    def apply(self, host: Host) -> None:
        host.vmm.resume(self.ref)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class GuestPaused:
    """The guest's vCPUs stand still.  Undone by letting them run."""

    ref: InstanceRef
    name: str = "guest_paused"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.ref) is VmmState.PAUSED

    def apply(self, host: Host) -> None:
        host.vmm.pause(self.ref)

    def undo(self, host: Host) -> None:
        if host.vmm.state(self.ref) is VmmState.PAUSED:
            host.vmm.resume(self.ref)


@dataclass(frozen=True, slots=True)
class VmmGone:
    """No process of the instance is left; with `grace_s`, the guest was asked first.

    `final` says that the guest's memory is gone with it: nothing before can be taken back.
    """

    ref: InstanceRef
    kill_timeout_s: float
    grace_s: float = 0.0
    final: bool = False
    name: str = "vmm_gone"

    def done(self, host: Host) -> bool:
        # By its pid, not by its API: a VMM that hangs is there all the same.
        return host.vmm.pid(self.ref) is None and not host.cgroups.pids(self.ref.instance_id)

    def apply(self, host: Host) -> None:
        if self.grace_s:
            _ask(self.ref, host, self.grace_s)
        if self.final:
            host.images.sync(self.ref)  # a killed attempt may have renamed but not synced
        _kill(self.ref, host, self.kill_timeout_s)

    def undo(self, host: Host) -> None:
        if self.final:
            raise IrrevocableError


def _ask(ref: InstanceRef, host: Host, grace_s: float) -> None:
    """A guest that runs is asked to shut down; one that cannot be asked is not."""
    try:
        if host.vmm.state(ref) is VmmState.RUNNING:
            host.vmm.ask_to_stop(ref, timeout_s=grace_s)
    except HostdError as error:
        log.warning("%s cannot be asked to shut down: %s", ref, error)


def _kill(ref: InstanceRef, host: Host, timeout_s: float) -> None:
    """The VMM by its pidfd, then whatever else its control group holds."""
    host.vmm.kill(ref, timeout_s=timeout_s)
    host.cgroups.kill(ref.instance_id, timeout_s=timeout_s)
