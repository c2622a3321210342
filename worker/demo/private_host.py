"""A Redis and a `hostd run` beside the machine's own, for the demo and for the benchmark."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from redis import Redis
from redis.exceptions import RedisError

from enqueue import signing
from enqueue.client import HostClient
from worker.linux.netns import NetworkNamespace
from worker.model.layout import Layout

START_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.002


class SandboxError(Exception):
    """The sandbox cannot be made; the message says why."""


class PrivateHost:
    """Both run below one directory, with a network namespace and a control group of their own.

    `program` is the command that starts hostd.  `metrics` is a socket of the caller's namespace,
    which the worker inherits.
    """

    def __init__(
        self,
        base: Path,
        *,
        host: str,
        cgroup: str,
        program: Sequence[str],
        vmm: Mapping[str, object],
    ) -> None:
        self.base = base
        self.layout = Layout(base / "state")
        self.namespace = NetworkNamespace()
        self.metrics = socket.create_server(("127.0.0.1", 0))
        self._host, self._cgroup, self._program, self._vmm = host, cgroup, program, vmm
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._signer = base / "agentd.key"
        signing.generate("agentd", private=self._signer, public=base / "keys" / "agentd.json")

    @property
    def redis_socket(self) -> Path:
        """Redis' Unix socket, which is reachable from every network namespace."""
        return self.base / "redis.sock"

    @property
    def redis_url(self) -> str:
        """The URL of that socket."""
        return f"unix://{self.redis_socket}"

    def redis(self) -> Redis:
        """A connection to Redis; the caller closes it."""
        return Redis.from_url(self.redis_url, socket_timeout=60)

    def client(self, url: str | None = None) -> HostClient:
        """agentd's client, with a signing key; the caller closes it."""
        return HostClient(url or self.redis_url, signer=signing.load_signer(self._signer))

    def start_redis(self) -> None:
        """Starts a Redis that keeps everything (AOF, fsync always); returns when it answers."""
        command = [
            "redis-server", "--port", "0", "--unixsocket", str(self.redis_socket),
            "--unixsocketperm", "700", "--dir", str(self.base), "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        self.spawn("redis", command)
        with self.redis() as redis:
            self._await("redis", lambda: _answers(redis))

    def start_worker(self, redis_url: str | None = None) -> float:
        """Starts `hostd run` in the namespace; the seconds from its exec until it is ready."""
        config = self.base / "hostd.toml"
        config.write_text(self._config(redis_url or self.redis_url))
        command = [*self._program, "--config", str(config), "run"]
        began = time.perf_counter()
        with self.namespace.entered():
            self.spawn("worker", command, self.metrics.fileno())
        self._await("worker", self._ready)
        return time.perf_counter() - began

    def spawn(self, name: str, command: list[str], *inherited: int) -> None:
        """Starts a child, with its output in `<name>.log` and no setting of the caller's hostd."""
        own = {key: value for key, value in os.environ.items() if not key.startswith("HOSTD_")}
        with (self.base / f"{name}.log").open("ab") as output:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=inherited, start_new_session=True, env=own,
            )  # fmt: skip

    def pid(self, name: str) -> int:
        """A child's process id."""
        return self._children[name].pid

    def log(self, name: str) -> str:
        """The last 2000 characters of a child's output."""
        return (self.base / f"{name}.log").read_text(errors="replace")[-2000:]

    def kill(self, name: str) -> int:
        """Ends a child by SIGKILL, as a power cut would; its pid."""
        child = self._children.pop(name)
        child.kill()
        child.wait()
        return child.pid

    def end(self, name: str) -> None:
        """Ends a child, if it runs: by SIGTERM, and after a while by SIGKILL."""
        child = self._children.pop(name, None)
        if child is None:
            return
        child.send_signal(signal.SIGCONT)
        child.terminate()
        try:
            child.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def close(self) -> None:
        """Ends every child, the worker first and Redis last."""
        for name in sorted(self._children, key=lambda name: (name == "redis", name != "worker")):
            self.end(name)
        self.namespace.close()
        self.metrics.close()

    def _config(self, redis_url: str) -> str:
        lines = [f'host = "{self._host}"']
        sections: dict[str, Mapping[str, object]] = {
            "redis": {"url": redis_url},
            "paths": {
                "state": str(self.layout.state),
                "ledger": f"{self.base}/ledger.db",
                "runtime": f"{self.base}/run",
            },
            "cgroup": {"parent": self._cgroup},
            "security": {"keys_dir": f"{self.base}/keys"},
            "metrics": {"listen": f"fd:{self.metrics.fileno()}"},
            "vmm": self._vmm,
        }
        for section, values in sections.items():
            lines.append(f"[{section}]")
            lines += [f"{k} = {msgspec.json.encode(v).decode()}" for k, v in values.items()]
        return "\n".join(lines) + "\n"

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if self._children[name].poll() is not None or time.monotonic() > deadline:
                raise SandboxError(f"{name} did not start:\n{self.log(name)}")
            time.sleep(POLL_S)

    def _ready(self) -> bool:
        """Asks /readyz.  The socket listens before the worker runs, so the answer comes at once."""
        try:
            with socket.create_connection(self.metrics.getsockname(), timeout=1) as caller:
                caller.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return b" 200 " in caller.recv(64)
        except OSError:
            return False


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False
