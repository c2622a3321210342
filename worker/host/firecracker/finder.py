"""Finds the process that is an instance's VMM: by its record, or by jail and control group.

The second way is for a start during which hostd died, after the jailer ran and before the record
was written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import Broken, HostdError, Transient
from worker.host.firecracker import vmm_record
from worker.host.firecracker.api.client import Api
from worker.host.firecracker.api.connections import KeptConnections
from worker.host.firecracker.jail import jailer, logs
from worker.host.firecracker.jail.jail import Jail, find_jail
from worker.host.firecracker.launch import exit_error, read_pid, runs_program
from worker.linux import processes
from worker.linux.processes import Process
from worker.model.layout import Layout
from worker.model.names import InstanceRef

_POLL_S: Final = 0.001
_EXIT_GRACE_S: Final = 1.0  # a VMM that hangs up on a call may still be freeing its memory


class Finder:
    """Finds VMMs, without a memory of earlier calls; `settle_s` bounds the wait for a start."""

    def __init__(self, layout: Layout, *, api_timeout_s: float, settle_s: float) -> None:
        self._layout = layout
        self._api_timeout_s = api_timeout_s
        self._settle_s = settle_s
        self.connections = KeptConnections()

    def open_vmm(self, ref: InstanceRef) -> Process | None:
        """The verified VMM, which the caller must close; None if it is gone."""
        runtime = self._layout.runtime(ref)
        known = vmm_record.read_vmm(runtime)
        if known is not None:
            return processes.find(known.identity())
        started = vmm_record.read_intent(runtime)
        if started is None or started.boot_id != processes.boot_id():
            return None
        return self._unrecorded(ref, started.groups())

    def jail(self, ref: InstanceRef) -> Jail | None:
        """The instance's jail; None if there is none."""
        return find_jail(self._layout.jail_base(ref), ref.instance_id)

    def put_on_record(self, ref: InstanceRef, jail: Jail, vmm: Process) -> None:
        """Records the VMM, once its API has answered as this instance's.

        Raises:
            Broken: `vmm_exited`, or `vmm_identity`, it is another program or instance.
            Transient: `vmm_timeout`.
        """
        with self.connect(ref, lambda: jail, vmm) as api:
            answer = api.instance()
        # Read after the API answered: before, the process may have been the jailer, not yet exec'd.
        identity = vmm.identity()
        if identity is None:
            raise exit_error("Firecracker", vmm.exit_code(), self._layout.runtime(ref))
        if answer.get("id") != ref.instance_id or not runs_program(jail, identity):
            raise Broken(
                "vmm_identity",
                f"process {vmm.pid} in the jail of {ref} is not its VMM",
                hint="stop the instance; if this stays, run `hostd doctor`",
                answer=answer,
            )
        version = str(answer.get("vmm_version", ""))
        vmm_record.write_vmm(self._layout.runtime(ref), vmm_record.VmmRecord.of(identity, version))

    @contextmanager
    def connect(self, ref: InstanceRef, jail: Callable[[], Jail], vmm: Process) -> Iterator[Api]:
        """The VMM's API; `jail` is called only if no connection is kept.

        Raises:
            Transient: `vmm_timeout`, it did not answer, and the VMM lives.
            Broken: `vmm_exited`, it did not answer, and the VMM has ended.
        """
        try:
            with self._connected(ref, jail, vmm) as api:
                yield api
        except Transient as error:
            # An unanswered call says nothing about the process; its pidfd does.
            if error.code != "transient/vmm_timeout" or not vmm.wait(timeout_s=_EXIT_GRACE_S):
                raise
            raise exit_error("Firecracker", vmm.exit_code(), self._layout.runtime(ref)) from error

    @contextmanager
    def _connected(self, ref: InstanceRef, jail: Callable[[], Jail], vmm: Process) -> Iterator[Api]:
        seen = processes.stat(vmm.pid)
        key = (vmm.pid, seen.start_ticks if seen else 0)
        api = self.connections.take(ref, key)
        if api is None:
            api = Api(jail().root, pid=vmm.pid, timeout_s=self._api_timeout_s)
        try:
            yield api
        except BaseException:
            api.close()
            raise
        self.connections.keep(ref, key, api)

    def refuse_in_use(self, ref: InstanceRef) -> None:
        """Returns if neither the VMM nor another process of its start lives.

        Raises:
            Transient: `jail_in_use`.
        """
        left: set[int] = set()
        vmm = self.open_vmm(ref)
        if vmm is not None:
            left.add(vmm.pid)
            vmm.close()
        runtime = self._layout.runtime(ref)
        launching = jailer.is_launching(runtime / logs.JAILER_LOG)
        started = vmm_record.read_intent(runtime)
        if started is not None and started.boot_id == processes.boot_id():
            left |= jailer.members(started.groups())
        if launching or left:
            raise Transient(
                "jail_in_use",
                f"the jail of {ref} is still in use",
                hint="kill the VMM and its control group first",
                pids=sorted(left),
            )

    def _unrecorded(self, ref: InstanceRef, groups: tuple[Path, ...]) -> Process | None:
        """The VMM of a start without record; waits until the jailer has ended."""
        deadline = time.monotonic() + self._settle_s
        log = self._layout.runtime(ref) / logs.JAILER_LOG
        while time.monotonic() < deadline:
            # In this order: a process joins the group before it releases the log.
            under_way = jailer.is_launching(log) or bool(jailer.members(groups))
            if not under_way:
                return None
            vmm = self._adopted(ref, groups)
            if vmm is not None:
                return vmm
            time.sleep(_POLL_S)
        return None

    def _adopted(self, ref: InstanceRef, groups: tuple[Path, ...]) -> Process | None:
        jail = self.jail(ref)
        pid = read_pid(jail.pid_file) if jail is not None else None
        vmm = processes.open_pidfd(pid) if pid is not None else None
        if jail is None or vmm is None:
            return None
        try:
            # The pid file lies in a directory of the VMM's uid: only the group proves it right.
            if jailer.is_member(vmm.pid, groups):
                self.put_on_record(ref, jail, vmm)
                return vmm
        except HostdError:  # its API is not up yet, or it is not a VMM
            pass
        vmm.close()
        return None
