"""Steps for the VMM and its guest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.errors import HostdError
from worker.model.names import InstanceRef
from worker.ports import Host, VmmState, VmSpec
from worker.steps.agent import drained, facts_of
from worker.steps.step import IrrevocableError

log = logging.getLogger("hostd")

HAS_GUEST = (VmmState.RUNNING, VmmState.PAUSED)
# The agent's share of the grace; the guest shuts down in the rest.
DRAIN_SHARE: Final = 2 / 3


@dataclass(frozen=True, slots=True)
class VmmLaunched:
    """A VMM of the instance is up or starting; steps that need no VMM run meanwhile."""

    spec: VmSpec
    kill_timeout_s: float
    name: str = "vmm_launched"

    def done(self, host: Host) -> bool:
        return host.vmm.launched(self.spec.ref)

    def apply(self, host: Host) -> None:
        host.vmm.launch(self.spec, host.cgroups.join_files(self.spec.ref.instance_id))

    def undo(self, host: Host) -> None:
        _kill(self.spec.ref, host, self.kill_timeout_s)


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
    """The image's state is loaded; the vCPUs are paused or run."""

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
    """The guest's vCPUs run.

    Before they do, the mark that an image was used is synced: after a power cut the image would
    look unused.  A killed attempt may have made the mark without syncing it.  `just_marked`: this
    attempt has synced it.
    """

    ref: InstanceRef
    just_marked: bool = False
    name: str = "guest_running"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.ref) is VmmState.RUNNING

    def apply(self, host: Host) -> None:
        if not self.just_marked:
            host.images.sync(self.ref)
        host.vmm.resume(self.ref)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class GuestPaused:
    """The guest's vCPUs are paused, after its agent was asked to drain.

    A drain leaves nothing that `done` could check, so it is part of this step; `drain_s` limits it,
    None skips it.  Undo resumes the guest and notifies its agent.
    """

    ref: InstanceRef
    drain_s: float | None
    name: str = "guest_paused"

    def done(self, host: Host) -> bool:
        return host.vmm.state(self.ref) is VmmState.PAUSED

    def apply(self, host: Host) -> Mapping[str, Any]:
        drain = drained(self.ref, host, self.drain_s)
        host.vmm.pause(self.ref)
        return {"drain": drain}

    def undo(self, host: Host) -> None:
        if host.vmm.state(self.ref) is VmmState.PAUSED:
            host.vmm.resume(self.ref)
        host.agents.notify_resumed(self.ref)


@dataclass(frozen=True, slots=True)
class VmmGone:
    """No process of the instance is left.

    With `grace_s`, a running guest is asked to shut down first; with `agent`, its agent, too.
    `final`: the guest's memory is gone with it, so no earlier step can be undone.
    """

    ref: InstanceRef
    kill_timeout_s: float
    grace_s: float = 0.0
    agent: bool = True
    final: bool = False
    name: str = "vmm_gone"

    def done(self, host: Host) -> bool:
        # By its pid, not by its API: a VMM that hangs exists, too.
        return host.vmm.pid(self.ref) is None and not host.cgroups.pids(self.ref.instance_id)

    def apply(self, host: Host) -> Mapping[str, Any] | None:
        stop = self._asked(host) if self.grace_s else None
        if self.final:
            host.images.sync(self.ref)  # a killed attempt may have renamed but not synced
        _kill(self.ref, host, self.kill_timeout_s)
        return None if stop is None else {"stop": stop}

    def undo(self, host: Host) -> None:
        if self.final:
            raise IrrevocableError

    def _asked(self, host: Host) -> dict[str, Any]:
        """A guest that runs was asked to shut down, its agent first."""
        said, left_s = {}, self.grace_s
        try:
            if host.vmm.state(self.ref) is not VmmState.RUNNING:
                return {"asked": False, "ended_by": "kill"}
            if self.agent:
                answer = host.agents.drain(self.ref, timeout_s=self.grace_s * DRAIN_SHARE)
                left_s = max(0.0, self.grace_s - answer.took_ms / 1000)
                said = {"drain": facts_of(answer)}
            gone = host.vmm.ask_to_stop(self.ref, timeout_s=left_s)
        except HostdError as error:
            log.warning("%s cannot be asked to shut down: %s", self.ref, error)
            return {"asked": False, "ended_by": "kill"}
        return {"asked": True, **said, "ended_by": "guest" if gone else "kill"}


def _kill(ref: InstanceRef, host: Host, timeout_s: float) -> None:
    """Kills the VMM by its pidfd, then all other processes of its control group."""
    host.vmm.kill(ref, timeout_s=timeout_s)
    host.cgroups.kill(ref.instance_id, timeout_s=timeout_s)
