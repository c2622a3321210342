"""The demo's own corner of the machine: directory, network namespace, control groups, Redis.

Every name is fixed, so that a run can remove what a killed one left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from worker.demo.interrupts import Interrupts
from worker.linux import mounts, processes
from worker.linux.netns import NetworkNamespace

BASE: Final = Path("/var/tmp/hostd-demo")  # noqa: S108  fixed on purpose; only root may use it
CGROUP: Final = "hostd-demo"
HOST: Final = "demo"
START_TIMEOUT_S: Final = 15.0


class SandboxError(Exception):
    """The sandbox cannot be made; the message says why."""


@dataclass(slots=True)
class Sandbox:
    """What the demo runs in.  `metrics` and `dashboard` are sockets of the caller's namespace."""

    settings: Mapping[str, object]
    interrupts: Interrupts
    namespace: NetworkNamespace = field(default_factory=NetworkNamespace)
    metrics: socket.socket = field(default_factory=lambda: _loopback())
    dashboard: socket.socket = field(default_factory=lambda: _loopback())
    _children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def redis_url(self) -> str:
        """Redis' Unix socket: it is reached from every network namespace."""
        return f"unix://{BASE}/redis.sock"

    @property
    def state(self) -> Path:
        """hostd's state directory."""
        return BASE / "state"

    @property
    def log(self) -> Path:
        """What the worker says."""
        return BASE / "worker.log"

    def start_redis(self) -> None:
        """A private Redis that keeps everything (AOF, fsync always)."""
        command = [
            "redis-server", "--port", "0", "--unixsocket", f"{BASE}/redis.sock",
            "--unixsocketperm", "700", "--dir", str(BASE), "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self._spawn("redis", command, BASE / "redis.log")
        with Redis.from_url(self.redis_url) as redis:
            self._await("redis", lambda: _answers(redis))

    def start_worker(self) -> None:
        """A real `hostd run` in the sandbox's network namespace; returns when it is ready."""
        config = BASE / "hostd.toml"
        config.write_text(self._config())
        command = [sys.executable, "-m", "worker", "--config", str(config), "run"]
        with self.namespace.entered():
            self._spawn("worker", command, self.log, self.metrics.fileno())
        self._await("worker", self._ready)

    def start_dashboard(self) -> None:
        """rq-dashboard without pickle."""
        listen = f"fd:{self.dashboard.fileno()}"
        command = [
            sys.executable, "-m", "worker.dashboard", "--redis", self.redis_url, "--listen", listen,
        ]  # fmt: skip
        self._spawn("dashboard", command, BASE / "dashboard.log", self.dashboard.fileno())

    def kill_worker(self) -> int:
        """SIGKILL, as a power cut would; returns the pid."""
        child = self._children.pop("worker")
        child.kill()
        child.wait()
        return child.pid

    def close(self) -> None:
        """Ends every process; the worker first and gently."""
        for name in ("worker", "dashboard", "redis"):
            child = self._children.pop(name, None)
            if child is not None:
                child.terminate()
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        self.namespace.close()
        self.metrics.close()
        self.dashboard.close()

    def _config(self) -> str:
        lines = [f'host = "{HOST}"']
        sections: dict[str, Mapping[str, object]] = {
            "redis": {"url": self.redis_url},
            "paths": {
                "state": str(self.state),
                "ledger": f"{BASE}/ledger.db",
                "runtime": f"{BASE}/run",
            },
            "cgroup": {"parent": CGROUP},
            "security": {"keys_dir": f"{BASE}/keys"},
            "metrics": {"listen": f"fd:{self.metrics.fileno()}"},
            "vmm": self.settings,
        }
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{k} = {msgspec.json.encode(v).decode()}" for k, v in values.items()]
        return "\n".join(lines) + "\n"

    def _spawn(self, name: str, command: list[str], log: Path, *inherited: int) -> None:
        with log.open("ab") as output, self.interrupts.held():
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=inherited, start_new_session=True, env=_environment(),
            )  # fmt: skip
            self._children[name] = child
            held = processes.hold(child.pid)
            if held is not None:
                with held:
                    _remember(held)

    def _await(self, name: str, ready: object) -> None:
        assert callable(ready)  # noqa: S101  both callers pass one
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            child = self._children[name]
            if child.poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"{name} did not start:\n{_tail(BASE / f'{name}.log')}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        """Asks /readyz through the socket that the worker has inherited."""
        try:
            with socket.create_connection(self.metrics.getsockname(), timeout=1) as caller:
                caller.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in caller.recv(64)
        except OSError:
            return False


def prepare() -> list[str]:
    """An empty base directory; returns what a killed demo had left and was removed.

    Raises:
        SandboxError: another demo runs, or something will not go.
    """
    removed = sweep()
    BASE.mkdir(mode=0o700, parents=True)
    return removed


def sweep() -> list[str]:
    """Removes every trace of a demo; returns what there was."""
    removed = []
    for identity in _remembered():
        held = processes.find(identity)
        if held is not None:
            with held:
                held.signal(signal.SIGKILL)
                held.wait(timeout_s=10)
            removed.append(f"process {identity.pid}")
    removed += _sweep_cgroups()
    if BASE.exists():
        for point in mounts.below(BASE):
            mounts.unmount(point)
            removed.append(f"mount {point}")
        shutil.rmtree(BASE)
        removed.append(f"directory {BASE}")
    return removed


def cgroup_directories() -> list[Path]:
    """The demo's control groups in every hierarchy, innermost first."""
    roots = [
        Path(line.split(" ")[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.partition(" - ")[2].startswith(("cgroup ", "cgroup2 "))
    ]
    found = [
        directory
        for root in roots
        if (root / CGROUP).is_dir()
        for directory in [root / CGROUP, *(root / CGROUP).rglob("*")]
        if directory.is_dir()
    ]
    return sorted(set(found), key=lambda path: len(path.parts), reverse=True)


def _sweep_cgroups() -> list[str]:
    removed = []
    directories = cgroup_directories()
    for directory in directories:
        with suppress(OSError):
            (directory / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 10
    for directory in directories:
        while directory.exists() and time.monotonic() < deadline:
            try:
                directory.rmdir()
                removed.append(f"control group {directory}")
            except OSError:
                time.sleep(0.01)
    return removed


def _remember(process: processes.Process) -> None:
    """Writes down who to end if this demo is killed."""
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


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def _loopback() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _tail(log: Path) -> str:
    lines: IO[str]
    with log.open(errors="replace") as lines:
        return "".join(lines.readlines()[-8:])
