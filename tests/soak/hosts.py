"""The soak's hosts: real `hostd run` processes, VMMs with a journal, and kills."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from enqueue.requests import SetupNetwork, TeardownNetwork, TenantId
from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import HOST, NET_ID, TENANT, HostdProcess
from tests.soak.journal import EFFECTS
from worker.demo import documents
from worker.host.cgroups.hierarchies import detect
from worker.host.firewall.firewall import Nft
from worker.host.links.links import Netlink
from worker.linux import mounts
from worker.simulator.launchers import write_launchers

TICK_MS: Final = 200
GUEST: Final = {"vcpus": 1, "mem_mib": 2, "data_disk_mib": 0}
SETUP: Final = SetupNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID))
TEARDOWN: Final = TeardownNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID))


class DurableRedis(RedisServer):
    """A Redis that syncs every write before it acknowledges."""

    def start(self) -> None:
        super().start()
        with self._connect() as client:
            client.config_set("appendfsync", "always")


class SoakHost(HostdProcess):
    """One of several hosts on one Redis."""

    def __init__(self, redis: RedisServer, name: str, instances: int) -> None:
        self.name = name
        super().__init__(redis)
        quotas = dict.fromkeys(("max_running", "max_vcpus", "max_instances_per_pool"), instances)
        _change(self.layout.tenant(TENANT) / "tenant.json", quotas=quotas)
        pool = self.layout.pool(TENANT, documents.POOL) / "pool.json"
        _change(pool, instance_resources=GUEST)
        number = int(name.rpartition("-")[2])
        self.refs = [self.instance(f"i-{number:04x}{n:04x}") for n in range(1, instances + 1)]

    @property
    def programs(self) -> Path:
        """The directory of the stand-ins and of their files."""
        return self.base / "vmm"

    @property
    def effects(self) -> Path:
        """The journal of all its guests."""
        return self.programs / EFFECTS

    def configure(self, **more: Mapping[str, object]) -> None:
        firecracker, jailer = write_launchers(self.programs, {"tick_ms": TICK_MS})
        text = jailer.read_text().replace("worker.simulator.entry", "tests.soak.journal")
        jailer.write_text(text)
        vmm = {"simulate": False, "firecracker": str(firecracker), "jailer": str(jailer)}
        super().configure(vmm=vmm, **more)
        named = self.config.read_text().replace(f'host = "{HOST}"', f'host = "{self.name}"', 1)
        self.config.write_text(named)

    # ------------------------------------------------------------ kills

    def kill_vmm(self, chance: random.Random) -> str | None:
        """Kills the VMM of any instance; that instance, or None if no VMM runs."""
        groups = sorted(self._groups(), key=lambda group: group.name)
        chance.shuffle(groups)
        return next((group.name for group in groups if _killed(group)), None)

    def _groups(self) -> Iterator[Path]:
        tracking = detect().mounts()[0] / self.cgroup
        yield from (path for path in tracking.glob("i-*") if path.is_dir())

    # ------------------------------------------------------------ looking

    def status(self, instance: str) -> str:
        """The status in instance.json."""
        (ref,) = (ref for ref in self.refs if ref.instance_id == instance)
        document = json.loads((self.layout.instance(ref) / "instance.json").read_bytes())
        return str(document["status"])

    def lives(self, instance: str) -> bool:
        """Whether the instance's VMM lives: it holds a lock."""
        path = self.programs / f"{instance}.lock"
        if not path.exists():
            return False
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def descriptors(self) -> int:
        """The number of hostd's open descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def leftovers(self) -> list[str]:
        """Traces of guests and networks after all were destroyed."""
        left = [f"control group {group.name}" for group in self._groups()]
        left += [f"mount {path}" for path in mounts.below(self.base) if "jail" in path.parts]
        places = ("instances/*/jail/*", "instances/*/run*", "instances/*/snapshots/*")
        for place in places:
            left += [str(path) for path in self.layout.state.glob(f"tenants/*/pools/*/{place}")]
        left += [f"secrets {path}" for path in self.runtime.glob("secrets/*")]
        left += [f"VMM of {ref.instance_id}" for ref in self.refs if self.lives(ref.instance_id)]
        left += [f"zombie {pid}" for pid in _zombies_of(self.pid)]
        return [f"{self.name}: {what}" for what in (*left, *self._in_network())]

    def _in_network(self) -> list[str]:
        with self.namespace.entered():
            links, firewall = Netlink(), Nft()
            try:
                found = [f"link {name}" for name in links.owned()]
                found += [f"rules of net {number}" for number in firewall.tenants()]
                return found + [f"rules of {tap}" for tap in firewall.guests()]
            finally:
                links.close()
                firewall.close()


def _change(document: Path, **fields: object) -> None:
    document.write_text(json.dumps({**json.loads(document.read_text()), **fields}))


def _killed(group: Path) -> bool:
    """Kills a process of the group; whether there was one.

    Opens its pidfd, then reads the group again: the pid may be another process's by then.
    """
    with suppress(OSError):
        for pid in (group / "cgroup.procs").read_text().split():
            pidfd = os.pidfd_open(int(pid))
            try:
                if pid in (group / "cgroup.procs").read_text().split():
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    return True
            finally:
                os.close(pidfd)
    return False


def _zombies_of(parent: int) -> Iterator[int]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = entry.read_text().partition(" (")
            state, ppid = rest.rpartition(") ")[2].split()[:2]
            if state == "Z" and int(ppid) == parent:
                yield int(pid)
