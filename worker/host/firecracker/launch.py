"""Starts the jailer and waits, within one deadline, until the VMM is up and verified."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Final

from worker.errors import Broken, Transient
from worker.host.cgroups.kill import kill_and_reap
from worker.host.firecracker.api import client as api
from worker.host.firecracker.jail import jailer, logs
from worker.host.firecracker.jail.jail import Jail
from worker.linux import processes, safe_open
from worker.linux.processes import Identity, Process

_POLL_S: Final = 0.0001
_FORKS_END_S: Final = 0.5
_KILL_TIMEOUT_S: Final = 5.0


class Launch:
    """One launch of one VMM; `deadline` is monotonic time in seconds."""

    def __init__(
        self, jail: Jail, join_files: tuple[Path, ...], *, runtime: Path, deadline: float
    ) -> None:
        self._jail = jail
        self._join_files = join_files
        self._runtime = runtime
        self._deadline = deadline

    def begin(self, argv: tuple[str, ...]) -> None:
        """Starts the jailer."""
        processes.adopt_orphans()  # otherwise the VMM's exit code would be lost
        self._program = Path(argv[0]).name
        log = self._runtime / logs.JAILER_LOG
        self._jail_process = jailer.launch(argv, self._join_files, log)

    def finish(self) -> Process:
        """The VMM, in its control group, with an API that accepts connections.

        If this fails, no process of the launch is left.

        Raises:
            Broken: `vmm_exited` or `cgroup`.
            Transient: `vmm_timeout`.
        """
        try:
            self._await_jailer(self._jail_process)
            vmm = self._await_pid()
            try:
                self._await_api(vmm)
            except BaseException:
                vmm.close()
                raise
        except BaseException:
            self.abandon()
            raise
        self._reap_jailer(vmm)
        return vmm

    def abandon(self) -> None:
        """Kills every process of the launch."""
        self._jail_process.kill()
        self._jail_process.wait()
        groups = tuple(file.parent for file in self._join_files)
        kill_and_reap(groups, timeout_s=_KILL_TIMEOUT_S)
        # The jailer's forks and the VMM before its exec, if they died before they were found.
        processes.reap_strays(self._program)

    def _await_jailer(self, jail_process: subprocess.Popen[bytes]) -> None:
        # Popen.wait(timeout) sleeps up to 50 ms between its polls; a pidfd wakes us at once.
        with Process(jail_process.pid, os.pidfd_open(jail_process.pid)) as process:
            if not process.wait(timeout_s=self._left_s()):
                raise self._timed_out("the jailer did not finish")
        if code := jail_process.wait():
            raise exit_error("the jailer", code, self._runtime)

    def _await_pid(self) -> Process:
        while True:
            # Read before the file: the jailer writes the file before it ends.
            empty = bool(self._join_files) and not jailer.members(self._join_files)
            pid = read_pid(self._jail.pid_file)
            if pid is not None:
                return self._open_member(pid)
            if empty:
                raise exit_error("the jailer", None, self._runtime)
            self._pause("the jailer wrote no pid file")

    def _open_member(self, pid: int) -> Process:
        vmm = processes.open_pidfd(pid)
        if vmm is None:
            raise exit_error("Firecracker", None, self._runtime)
        if jailer.is_member(pid, self._join_files):
            return vmm
        with vmm:
            if not vmm.alive():
                raise exit_error("Firecracker", self._exit_code(vmm), self._runtime)
        raise Broken(
            "cgroup",
            f"the VMM's process {pid} is not in its control group",
            hint="hostd needs the host's pid and cgroup namespaces",
            join_files=[str(file) for file in self._join_files],
        )

    def _await_api(self, vmm: Process) -> None:
        while not api.listening(self._jail.root):
            if not vmm.alive():
                raise exit_error("Firecracker", self._exit_code(vmm), self._runtime)
            self._pause("Firecracker's API did not come up")

    def _exit_code(self, vmm: Process) -> int | None:
        # A dead VMM is a child of the jailer's second fork until that has ended, too.
        until = time.monotonic() + _FORKS_END_S
        while (code := vmm.exit_code()) is None and time.monotonic() < until:
            time.sleep(_POLL_S)
        return code

    def _reap_jailer(self, vmm: Process) -> None:
        # The jailer's two forks share the VMM's process group; the second is its parent, and may
        # end after the API is up.  Any that this misses is reaped with the VMM.
        until = min(self._deadline, time.monotonic() + _FORKS_END_S)
        while (seen := processes.stat(vmm.pid)) is not None and vmm.alive():
            parent = processes.stat(seen.parent)
            if parent is None or parent.group != seen.group or time.monotonic() > until:
                processes.reap_group(seen.group)
                return
            time.sleep(_POLL_S)

    def _pause(self, what: str) -> None:
        if self._left_s() <= 0:
            raise self._timed_out(what)
        time.sleep(_POLL_S)

    def _left_s(self) -> float:
        return self._deadline - time.monotonic()

    def _timed_out(self, what: str) -> Transient:
        return Transient(
            "vmm_timeout",
            f"{what} in time; it was killed",
            hint="look at the host's load; [vmm] spawn_timeout_s bounds the start",
            log=logs.tail(self._runtime),
        )


def read_pid(path: Path) -> int | None:
    """The number in a pid file; None if it is missing, still empty, or not a plain file.

    The directory is the VMM's, so the entry may be a symlink, or a FIFO that would block us.
    """
    try:
        text = safe_open.read(path, limit_bytes=15) or b""
    except (OSError, ValueError):
        return None
    return int(text) if text.isdigit() else None


def runs_program(jail: Jail, identity: Identity) -> bool:
    """Whether the process executes the jail's program; a script passes with any executable."""
    program = jail.root / jail.exec_name
    try:
        with safe_open.opened(program) as fd:
            if fd is None:
                return False
            seen, script = os.fstat(fd), os.read(fd, 2) == b"#!"
    except OSError:
        return False
    return script or (seen.st_dev, seen.st_ino) == (identity.exe_dev, identity.exe_ino)


def exit_error(who: str, code: int | None, runtime: Path) -> Broken:
    """The error for a VMM or jailer that ended by itself."""
    return Broken(
        "vmm_exited",
        f"{who} ended by itself: {jailer.describe_exit(code)}",
        hint="the end of its log says why; `hostd doctor` checks the host",
        exit_code=code,
        log=logs.tail(runtime),
    )
