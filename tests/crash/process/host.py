"""A host whose hostd can be killed at a point, and requests to it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from enqueue.client import Ticket
from enqueue.requests import Request
from enqueue.results import Result
from tests.crash.process.entry import Counting, Order
from tests.crash.process.fuse import LOG_MARK, At
from tests.crash.process.zygote import Call
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import HOST, TENANT, HostdProcess, eventually
from worker.demo import documents
from worker.host.cgroups.hierarchies import detect
from worker.linux import mounts
from worker.model.names import InstanceRef

ROOT: Final = Path(__file__).parents[3]
WAIT_S: Final = 60.0
# One executor, and no number that depends on earlier requests.
SETTINGS: Final[Mapping[str, Mapping[str, object]]] = {
    "worker": {"threads": 1},
    "images": {"digest_memory": True, "keep_free_mib": 1},
}
MEM_MIB: Final = 32


class Machine:
    """One host; each start of its hostd is a new process."""

    def __init__(
        self, redis: RedisServer, settings: Mapping[str, Mapping[str, object]] = SETTINGS
    ) -> None:
        self.hostd = HostdProcess(redis, settings)
        self.log = self.hostd.base / "effects.log"
        self._shrink_guests()
        self._zygote = self.hostd.spawn(
            *(sys.executable, "-m", "tests.crash.process.zygote"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, cwd=ROOT,
        )  # fmt: skip
        self.client = self.hostd.client()
        self._running: int | None = None
        self._serial = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the host: processes, devices, files."""
        self.kill()
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.wait(WAIT_S)
        self._zygote.stdout.close()
        self.hostd.close()

    # ------------------------------------------------------------ processes

    def serve(self) -> None:
        """Starts an ordinary `hostd run`, unless one runs."""
        if self._running is None:
            order = Order(config=str(self.hostd.config), log=str(self.log))
            self._running = self._call(Call(run=order, output=str(self.hostd.log)))

    def kill(self) -> None:
        """Kills hostd with SIGKILL and reaps it."""
        if self._running is not None:
            subprocess.run(["kill", "-KILL", str(self._running)], check=True)
            self._call(Call(wait=self._running))
            self._running = None

    def counted(self, counting: Counting, at: At | None = None) -> list[str]:
        """Runs hostd until it dies at `at`, or until the counted work ends; the effects' names.

        Raises:
            AssertionError: it ended in another way.
        """
        assert self._running is None, "hostd runs already"
        self.log.unlink(missing_ok=True)
        order = self.order(counting, at)
        code = self._call(Call(wait=self._call(Call(run=order, output=str(self.hostd.log)))))
        wanted = 0 if at is None else -signal.SIGKILL
        assert code == wanted, f"hostd ended with {code} at {at}:\n{self.hostd.said()[-4000:]}"
        return effects(self.log.read_text())

    def order(self, counting: Counting, at: At | None = None) -> Order:
        """The settings of a process whose effects are counted."""
        config = str(self.hostd.config)
        return Order(config=config, log=str(self.log), counting=counting, at=at)

    def _call(self, call: Call) -> int:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(msgspec.json.encode(call, enc_hook=str) + b"\n")
        self._zygote.stdin.flush()
        return int(self._zygote.stdout.readline())

    # ------------------------------------------------------------ requests

    def enqueue(self, request: Request) -> Ticket:
        """Enqueues the request; every id has the same length."""
        self._serial += 1
        return self.client.enqueue(request, host=HOST, request_id=f"r-{self._serial:08d}")

    def ask(self, request: Request) -> Result:
        """The result of the request from an ordinary hostd."""
        ticket = self.enqueue(request)
        self.serve()
        return self.answer(ticket)

    def answer(self, ticket: Ticket) -> Result:
        """The request's result, awaited for at most WAIT_S."""
        return ticket.wait(timeout_s=WAIT_S)

    def rest(self) -> None:
        """Waits until hostd has nothing to do: no request, and no event to publish."""
        eventually(self._rests, "hostd has nothing left to do", bound_s=WAIT_S)

    def _rests(self) -> bool:
        if not self.hostd.ready():  # before that, it has not recovered the work of a killed one
            return False
        shown = self.hostd.get("/metrics").splitlines()
        busy = ("hostd_requests_in_flight ", "hostd_requests_waiting ")
        counts = [float(line.split()[1]) for line in shown if line.startswith(busy)]
        open_ = "SELECT 1 FROM requests WHERE state != 'published' UNION SELECT 1 FROM outbox WHERE"
        return counts == [0, 0] and not self.hostd.rows(f"{open_} published = 0")

    def instance(self, number: int) -> InstanceRef:
        """A new instance, `created`."""
        return self.hostd.instance(f"i-{number:08x}")

    def _shrink_guests(self) -> None:
        file = self.hostd.layout.pool(TENANT, documents.POOL) / "pool.json"
        pool = msgspec.json.decode(file.read_bytes())
        pool["instance_resources"]["mem_mib"] = MEM_MIB
        file.write_bytes(msgspec.json.encode(pool))

    def forget_kernel_state(self) -> None:
        """Removes what hostd makes only once, as on a host where it was just installed."""
        for point in mounts.below(self.hostd.runtime):
            mounts.unmount(point)
        shutil.rmtree(self.hostd.runtime, ignore_errors=True)
        with self.hostd.namespace.entered():
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
            subprocess.run(["nft", "flush", "ruleset"], check=True)
        for mount in detect().mounts():
            group = mount / self.hostd.cgroup
            if group.exists():
                group.rmdir()


def effects(log: str) -> list[str]:
    """The effects in a log, in order: the first is number 1."""
    lines = [line.removeprefix(LOG_MARK + " ") for line in log.splitlines()]
    named: dict[int, str] = {}
    for line in lines:
        if line.startswith("+ "):
            _, number, name = line.split(" ", 2)
            named.setdefault(int(number), name)
    return [named[number] for number in sorted(named)]
