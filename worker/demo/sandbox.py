"""The demo's own part of the machine: directory, network namespace, control groups, Redis.

Every name is fixed, so that a run can remove what a killed one left.
"""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from worker.demo import cleanup
from worker.demo.interrupts import Interrupts
from worker.demo.private_host import PrivateHost
from worker.linux import processes

BASE: Final = Path("/var/tmp/hostd-demo")  # noqa: S108  fixed on purpose; only root may use it
CGROUP: Final = "hostd-demo"
HOST: Final = "demo"


class Sandbox(PrivateHost):
    """What the demo runs in.  `dashboard` is a socket of the caller's namespace."""

    def __init__(self, vmm: Mapping[str, object], interrupts: Interrupts) -> None:
        program = [sys.executable, "-m", "worker"]
        super().__init__(BASE, host=HOST, cgroup=CGROUP, program=program, vmm=vmm)
        self.interrupts = interrupts
        self.dashboard = socket.create_server(("127.0.0.1", 0))

    def start_dashboard(self) -> None:
        """Starts rq-dashboard without pickle."""
        listen = f"fd:{self.dashboard.fileno()}"
        command = [
            sys.executable, "-m", "worker.dashboard", "--redis", self.redis_url, "--listen", listen,
        ]  # fmt: skip
        self.spawn("dashboard", command, self.dashboard.fileno())

    def spawn(self, name: str, command: list[str], *inherited: int) -> None:
        """As a `PrivateHost`'s; the next demo ends the child if this demo is killed."""
        with self.interrupts.deferred():
            super().spawn(name, command, *inherited)
            process = processes.open_pidfd(self.pid(name))
            if process is not None:
                with process:
                    _remember(process)

    def close(self) -> None:
        """As a `PrivateHost`'s; also closes the dashboard's socket."""
        super().close()
        self.dashboard.close()


def prepare() -> list[str]:
    """Makes an empty base directory; what a killed demo had left and was removed."""
    removed = sweep()
    BASE.mkdir(mode=0o700, parents=True)
    return removed


def sweep() -> list[str]:
    """Removes every trace of a demo; what was removed."""
    removed = []
    for identity in _remembered():
        process = processes.find(identity)
        if process is not None:
            with process:
                process.signal(signal.SIGKILL)
                process.wait(timeout_s=10)
            removed.append(f"process {identity.pid}")
    return removed + cleanup.remove(BASE, parent=CGROUP)


def _remember(process: processes.Process) -> None:
    """Records the process: the next demo ends it if this one is killed."""
    identity = process.identity()
    if identity is not None:
        with (BASE / "processes").open("ab") as file:
            file.write(msgspec.json.encode(identity) + b"\n")


def _remembered() -> list[processes.Identity]:
    try:
        lines = (BASE / "processes").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=processes.Identity) for line in lines]
