"""The benchmark's own corner of the machine: directory, network namespace, control groups, Redis.

A sandbox is held by a lock on a file in it, so that a later run can tell one that a killed run has
left and remove it.  Redis and the workers die with the run that started them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from bench.guest import Guest, choose
from enqueue import signing
from enqueue.client import HostClient
from worker.host.cgroups import hierarchies as cgroup_layout
from worker.linux import mounts
from worker.linux.netns import NetworkNamespace
from worker.model.names import Layout

HOST: Final = "bench"
PREFIX: Final = "hostd-bench-"
PLACE: Final = Path("/var/tmp")
START_TIMEOUT_S: Final = 20.0


class Sandbox:
    """A private Redis (AOF, fsync always), and a real `hostd run` when it is asked for."""

    def __init__(self, base: Path, kernel: Path | None) -> None:
        self.base = base
        self.layout = Layout(base / "state")
        self.guest: Guest = choose(base, kernel)
        self.namespace = NetworkNamespace()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.signer_file = base / "agentd.key"
        signing.generate("agentd", private=self.signer_file, public=base / "keys" / "agentd.json")

    @property
    def redis_socket(self) -> Path:
        """Redis' Unix socket: it is reached from every network namespace."""
        return self.base / "redis.sock"

    @property
    def redis_url(self) -> str:
        """The URL of that socket."""
        return f"unix://{self.redis_socket}"

    def redis(self) -> Redis:
        """A connection to it; for the caller to close."""
        return Redis.from_url(self.redis_url, socket_timeout=60)

    def client(self, url: str | None = None) -> HostClient:
        """agentd's client, signing; for the caller to close."""
        return HostClient(url or self.redis_url, signer=signing.load_signer(self.signer_file))

    def start_redis(self) -> None:
        """Redis answers."""
        command = [
            "redis-server", "--port", "0", "--unixsocket", str(self.redis_socket),
            "--unixsocketperm", "700", "--dir", str(self.base), "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self.spawn("redis", command)
        with self.redis() as redis:
            self._await("redis", lambda: _answers(redis))

    def start_worker(self, redis_url: str | None = None) -> float:
        """A `hostd run` is ready; returns the seconds from its exec to a /readyz that says so."""
        settings = {
            "HOSTD_HOST": HOST,
            "HOSTD_REDIS__URL": redis_url or self.redis_url,
            "HOSTD_PATHS__STATE": str(self.layout.state),
            "HOSTD_PATHS__LEDGER": str(self.base / "ledger.db"),
            "HOSTD_PATHS__RUNTIME": str(self.base / "run"),
            "HOSTD_CGROUP__PARENT": self.base.name,
            "HOSTD_SECURITY__KEYS_DIR": str(self.base / "keys"),
            "HOSTD_METRICS__LISTEN": f"fd:{self._listener.fileno()}",
            **self.guest.environment,
        }
        command = [sys.executable, "-m", "worker", "--config", os.devnull, "run"]
        began = time.perf_counter()
        with self.namespace.entered():
            self.spawn("worker", command, self._listener.fileno(), environment=settings)
        self._await("worker", self._ready)
        return time.perf_counter() - began

    @contextmanager
    def worker(self, redis_url: str | None = None) -> Iterator[None]:
        """A `hostd run` serves; it has ended afterwards."""
        self.start_worker(redis_url)
        try:
            yield
        finally:
            self.end("worker")

    def spawn(
        self,
        name: str,
        command: list[str],
        *inherited: int,
        environment: dict[str, str] | None = None,
    ) -> None:
        """A child that ends with this process, its output in `<name>.log`."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
        with (self.base / f"{name}.log").open("ab") as output:
            self._children[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=inherited, env=own | (environment or {}),
            )  # fmt: skip

    def pid(self, name: str) -> int:
        """A child's process id."""
        return self._children[name].pid

    def log(self, name: str) -> str:
        """The end of what a child said."""
        return (self.base / f"{name}.log").read_text(errors="replace")[-2000:]

    def end(self, name: str) -> None:
        """The child, if there is one, has ended; gently if it can."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.send_signal(signal.SIGCONT)
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """The child stands still."""
        os.kill(self.pid(name), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(name), signal.SIGCONT)

    def close(self) -> None:
        """Every child has ended, the worker first."""
        for name in sorted(self._children, key=lambda name: (name == "redis", name != "worker")):
            self.end(name)
        self.namespace.close()
        self._listener.close()

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self._children[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{self.log(name)}")
            time.sleep(0.002)

    def _ready(self) -> bool:
        # The socket listens before the worker is there: the answer comes as soon as it can.
        try:
            with socket.create_connection(self._listener.getsockname(), timeout=1) as caller:
                caller.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in caller.recv(64)
        except OSError:
            return False


@contextmanager
def sandbox(kernel: Path | None) -> Iterator[Sandbox]:
    """A sandbox with its Redis; nothing of it is left afterwards."""
    for stale in PLACE.glob(f"{PREFIX}*"):
        with suppress(BlockingIOError), _held(stale):
            _clear(stale)
    base = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))
    with _held(base):
        try:
            box = Sandbox(base, kernel)
            try:
                box.start_redis()
                yield box
            finally:
                box.close()
        finally:
            _clear(base)


@contextmanager
def _held(base: Path) -> Iterator[None]:
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _clear(base: Path) -> None:
    """No guest, control group, mount or file of the sandbox is left."""
    _kill_unconfined(base)
    deadline = time.monotonic() + 10
    for group in _groups(base.name):
        while group.exists() and time.monotonic() < deadline:
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with suppress(OSError):
                group.rmdir()
            time.sleep(0.01)
    for point in mounts.below(base):
        mounts.unmount(point)
    shutil.rmtree(base)


def _kill_unconfined(base: Path) -> None:
    """VMMs started by hand, outside every control group: those whose root is one of our jails."""
    for pid_file in base.glob("by-hand/**/root/*.pid"):
        root = Path(f"/proc/{pid_file.read_text()}/root")
        with suppress(OSError):
            if root.samefile(pid_file.parent):
                os.kill(int(root.parent.name), signal.SIGKILL)


def _groups(parent: str) -> list[Path]:
    tops = [mount / parent for mount in cgroup_layout.detect().mounts()]
    inner = [path for top in tops if top.is_dir() for path in top.rglob("*") if path.is_dir()]
    groups = {path for path in (*inner, *tops) if path.is_dir()}
    return sorted(groups, key=lambda path: len(path.parts), reverse=True)


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False
