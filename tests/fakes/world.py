"""A whole hostd over a fake machine and the real ledger, run step by step on one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec

from enqueue.envelope import Body, encode_body, encode_call
from enqueue.keys import job_id
from enqueue.requests import (
    HostName,
    InstanceId,
    PoolId,
    Request,
    RequestId,
    TenantId,
    TenantNet,
    bridge_name,
)
from enqueue.results import Pong, Result
from enqueue.signing import Verifier
from enqueue.times import Clock
from tests.fakes.agents import FakeAgents
from tests.fakes.cgroups import FakeCgroups
from tests.fakes.disks import FakeDisks
from tests.fakes.firewall import FakeFirewall
from tests.fakes.fuse import Fuse, FusedDatabase, fused
from tests.fakes.images import FakeImages
from tests.fakes.links import FakeLinks
from tests.fakes.records import FakeRecords
from tests.fakes.vmm import FakeVmm
from worker.config import Config, RetryConfig
from worker.daemon import startup as recover
from worker.drain.controller import DrainController
from worker.job import accept, story
from worker.ledger.ledger import Ledger
from worker.ledger.requests import Requests
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.plans.settings import Settings
from worker.ports import Artifacts, Host
from worker.protocol.delivery import Delivery
from worker.protocol.metrics import Metrics
from worker.protocol.verification import Policy, verify
from worker.request.context import Context
from worker.scheduling.admission import Admission, IsBarred
from worker.scheduling.executors import Executors
from worker.scheduling.locks import Locks
from worker.scheduling.suspects import suspects_at_start
from worker.scheduling.turns import Turns
from worker.scheduling.waits import Backoff, ReleaseKeys, ReplyNow, Turn, Wait

HOST = "h1"
NOW_S = 1_800_000_000.0
PONG = Pong(
    host=HOST, version="0", boot_id="b", uptime_s=1.0, firecracker_version="1", queue_depth=0
)


def net(net_id: int) -> TenantNet:
    """A tenant's network."""
    return TenantNet(
        tenant_net_id=net_id,
        ipv4_subnet=f"10.240.{net_id}.0/24",
        gateway_ip=f"10.240.{net_id}.1",
        bridge_name=bridge_name(net_id),
    )


class InlineExecutors:
    """The executors on one thread: turns are kept, time is the world's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._turns: Turns[int] = Turns()
        self._stories: dict[int, Iterator[Wait]] = {}
        self._subjects: dict[int, object] = {}
        self._ready: deque[int] = deque()
        self._admission: Admission[int] = Admission()
        self._in_line: set[int] = set()
        self._behind: set[int] = set()
        self._held: list[tuple[int, Wait]] | None = None
        self._number = 0
        self._running = 0

    def submit(self, story: Iterator[Wait], *, behind: bool = False) -> None:
        self._number += 1
        number = self._number
        if behind:
            self._behind.add(number)
        wait = next(story, None)
        if wait is None:
            return
        self._stories[number] = story
        if isinstance(wait, Turn):
            self._subjects[number] = wait.in_flight
        if self._held is not None:
            self._held.append((number, wait))
        else:
            self._place(number, wait)

    @contextmanager
    def batch(self) -> Iterator[None]:
        self._held = []
        yield
        held, self._held = self._held, None
        for number, wait in held:
            if number in self._stories:
                self._place(number, wait)

    def withdraw(self, wanted: Callable[[object], bool]) -> list[object]:
        found = [
            n
            for n, subject in self._subjects.items()
            if n in self._stories and n != self._running and wanted(subject)
        ]
        for number in found:
            self._let_go(number)
        return [self._subjects[number] for number in found]

    def running(self) -> list[object]:
        return [self._subjects[self._running]] if self._running in self._subjects else []

    def run(self) -> None:
        """Runs stories until all wait or ended."""
        while self._ready:
            number = min(self._ready, key=self._behind.__contains__)
            self._ready.remove(number)
            if number not in self._stories:
                continue
            outer, self._running = self._running, number
            wait = next(self._stories[number], None)
            self._running = outer
            if wait is None:
                self._let_go(number)
            else:
                self._place(number, wait)

    def _place(self, number: int, wait: Wait) -> None:
        match wait:
            case ReplyNow():
                self._ready.append(number)
            case Backoff(due_s):
                self._world.now_s = max(self._world.now_s, NOW_S + due_s)
                self._ready.append(number)
            case ReleaseKeys(keys):
                for key in keys:
                    self._ready.extend(self._turns.release(number, key))
                self._ready.append(number)
            case Turn(keys, subject):
                self._subjects[number] = subject
                self._give_up_turn(number)
                if self._admission.park(number, wait):
                    return
                self._in_line.add(number)
                if self._turns.admit(number, keys):
                    self._ready.append(number)

    def close_admission(self, barred: IsBarred) -> None:
        self._admission.close(barred)

    def open_admission(self) -> None:
        for number, turn in self._admission.open():
            self._place(number, turn)

    def is_barred(self, turn: Turn) -> bool:
        return self._admission.is_barred(turn)

    def _let_go(self, number: int) -> None:
        del self._stories[number]
        self._admission.remove(number)
        self._give_up_turn(number)

    def _give_up_turn(self, number: int) -> None:
        if number in self._in_line:
            self._in_line.discard(number)
            self._ready.extend(self._turns.finish(number))


class MemoryPublisher:
    """Redis as the world sees it: a published request leaves the inbox."""

    def __init__(self, world: World) -> None:
        self._world = world

    def mark_started(self, delivery: Delivery) -> bool:
        return delivery.id not in self._world.cancelled

    def mark_postponed(self, delivery: Delivery) -> None:
        pass

    def publish(self, delivery: Delivery, result: Result, *, request_id: str | None) -> None:
        world = self._world
        events = world.ledger.outbox.unpublished()
        with world.fuse.effect("publish"):
            world.published.setdefault(delivery.id, []).append(result)
            world.events += [event for event in events if event not in world.events]
            world.inbox = [other for other in world.inbox if other.id != delivery.id]
        upto = events[-1][0] if events else 0
        world.ledger.mark_published([request_id] if request_id else [], events_upto=upto)

    def quarantine(self, delivery: Delivery, result: Result) -> None:
        self.publish(delivery, result, request_id=None)

    def flush_pending(self) -> None:
        pass


class World:
    """One host: its fake machine outlives any number of hostd processes."""

    requests_type: ClassVar[type[Requests]] = Requests
    executors_type: ClassVar[type[InlineExecutors]] = InlineExecutors
    fuse_type: ClassVar[type[Fuse]] = Fuse
    vmm_type: ClassVar[type[FakeVmm]] = FakeVmm

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.layout = Layout(directory / "state")
        self.links, self.firewall = FakeLinks(), FakeFirewall()
        self.cgroups, self.records = FakeCgroups(), FakeRecords()
        self.disks = FakeDisks(directory / "run")
        self.vmm, self.images = self.vmm_type(self.layout), FakeImages(self.layout)
        self.agents = FakeAgents(self.vmm.machine)
        self.fuse = self.fuse_type()
        self.inbox: list[Delivery] = []
        self.published: dict[str, list[Result]] = {}
        self.events: list[tuple[int, bytes]] = []
        self.cancelled: set[str] = set()
        self.now_s = NOW_S
        self.database: FusedDatabase
        self.ledger: Ledger
        self.context: Context
        self.start()

    # ------------------------------------------------------------ what agentd writes

    def tenant(self, tenant: str, net_id: int, **quotas: int) -> None:
        document = {"tenant_id": tenant, "net": net(net_id), "quotas": quotas}
        self.records.tenants[tenant] = msgspec.json.encode(document)
        revision = self.layout.artifacts(tenant, "p") / "revisions" / "r1"
        revision.mkdir(parents=True)
        kernel, rootfs = revision / "vmlinux", revision / "rootfs.ext4"
        kernel.write_bytes(b"kernel")
        rootfs.write_bytes(b"rootfs")
        self.records.current[tenant, "p"] = Artifacts("r1", kernel, rootfs)
        resources = {"vcpus": 1, "mem_mib": 1, "data_disk_mib": 1}
        pool = {
            "pool_id": "p", "tenant_id": tenant, "instance_resources": resources,
            "runtime_policy": {"readiness_timeout_seconds": 5},
        }  # fmt: skip
        self.records.pools[tenant, "p"] = msgspec.json.encode(pool)

    def change_pool(self, tenant: str, **fields: object) -> None:
        """agentd rewrites the pool's document."""
        pool = msgspec.json.decode(self.records.pools[tenant, "p"])
        self.records.pools[tenant, "p"] = msgspec.json.encode(pool | fields)

    def key(self, tenant: str) -> None:
        """The tenant's data disks are to be encrypted."""
        path = self.layout.disk_key(tenant)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"k" * 32)
        path.chmod(0o600)

    def instance(self, tenant: str, instance: str, status: str = "created") -> InstanceRef:
        ref = InstanceRef(TenantId(tenant), PoolId("p"), InstanceId(instance))
        document = {
            "instance_id": instance, "pool_id": "p", "tenant_id": tenant, "status": status,
            "kept": {"by": "agentd"},
        }  # fmt: skip
        self.records.docs[ref] = msgspec.json.encode(document)
        return ref

    # ------------------------------------------------------------ hostd's processes

    def start(self) -> None:
        """A new hostd process: it has nothing of the old one's memory."""
        self.vmm, self.disks = self.vmm.restarted(), self.disks.restarted()
        self.database = FusedDatabase.open(self.directory / "ledger.db")
        self.database.fuse = self.fuse
        self.ledger = Ledger(self.database)
        self.ledger.requests = self.requests_type(self.database, self.ledger.journal)
        self.executors = self.executors_type(self)
        settings = Settings(
            layout=self.layout,
            runtime=self.directory / "run",
            supernet=IPv4Network("10.240.0.0/12"),
            uplink="",
            uid_base=10_000,
            overhead_mib=64,
            kill_timeout_s=1.0,
            devices=self.disks.devices,
            subordinate_files=(self.directory / "subuid", self.directory / "subgid"),
        )
        host = Host(
            links=self.links, firewall=self.firewall, cgroups=self.cgroups, disks=self.disks,
            records=self.records, vmm=self.vmm, images=self.images, agents=self.agents,
        )  # fmt: skip
        self.context = Context(
            config=Config(host=HOST, retry=RetryConfig(attempts=3)),
            settings=settings,
            policy=Policy(HOST, Verifier({}), insecure=True),
            host=fused(host, self.fuse),
            ledger=self.ledger,
            locks=Locks(self.directory / "lock", timeout_s=0.05),
            publisher=MemoryPublisher(self),
            executors=cast("Executors", self.executors),
            metrics=Metrics(),
            clock=Clock(wall=lambda: self.now_s, monotonic=lambda: self.now_s - NOW_S),
            pong=lambda: PONG,
            random=lambda: 1.0,
            suspects=suspects_at_start(self.ledger),
        )
        self.draining = DrainController(self.context)

    def restart(self, *, rebooted: bool = False) -> None:
        """Another hostd process on the same machine, with its recovery."""
        self.ledger.close()
        self.start()
        self.draining = DrainController(self.context, rebooted=rebooted)
        self.draining.resume()
        recover.publish_decided(self.context)
        recover.resume_unfinished(self.context)
        recover.retry_sleeps(self.context)
        recover.restore_image_size(self.context)
        recover.reconcile_all(self.context, rebooted=rebooted)
        self.deliver()

    def deliver(self) -> None:
        """Everything in the inbox is delivered, as from Redis, and carried out."""
        with self.executors.batch(), self.ledger.transaction():
            for delivery in self.inbox:
                self.executors.submit(story(delivery, self.context))
        self.executors.run()

    # ------------------------------------------------------------ what agentd asks

    def enqueue(self, request: Request, request_id: str, *, issuer: str = "agentd") -> Delivery:
        """Puts a request into the inbox."""
        issued_at_ms = int(self.now_s * 1000)
        body = Body(
            v=1, request_id=RequestId(request_id), host=HostName(HOST), issuer=issuer,
            issued_at_ms=issued_at_ms, not_after_ms=issued_at_ms + 86_400_000, trace=None,
            request=request,
        )  # fmt: skip
        delivery = Delivery(job_id(HOST, request_id), encode_call(encode_body(body)))
        self.inbox.append(delivery)
        return delivery

    def begin(self, request: Request, request_id: str) -> None:
        """The request is accepted and in its first attempt, as a kill leaves it."""
        delivery = self.enqueue(request, request_id)
        verified = verify(delivery.data, id_=delivery.id, policy=self.context.policy)
        accept(verified, self.context)
        self.ledger.requests.begin_attempt(request_id, int(self.now_s * 1000))

    def ask(self, request: Request, request_id: str) -> Result:
        """Carries out one request; its last published result."""
        delivery = self.enqueue(request, request_id)
        self.deliver()
        return self.published[delivery.id][-1]

    # ------------------------------------------------------------ looking

    def seen(self) -> dict[str, Any]:
        """Everything on the machine that a request decides, without pids and times."""
        docs = {str(ref): msgspec.json.decode(raw) for ref, raw in self.records.docs.items()}
        volatile = {"firecracker_pid", "last_started_at", "last_stopped_at", "entered_running_at"}
        return {
            "links": dict(self.links.devices),
            "rules": dict(self.firewall.rules),
            "held": dict(self.firewall.guest_rules),
            "groups": {name: group.limits for name, group in self.cgroups.groups.items()},
            "guests": {str(ref): g.state for ref, g in self.vmm.machine.guests.items()},
            "jails": [str(ref) for ref in self.records.docs if self.vmm.jail_exists(ref)],
            "images": {str(ref): g.consumed for ref, g in self.images.published.items()},
            "partial": sorted(str(ref) for ref, _ in (*self.images.partial, *self.images.rooms)),
            "docs": {
                ref: {k: v for k, v in doc.items() if k not in volatile}
                for ref, doc in docs.items()
            },
            "disks": sorted(
                str(path.relative_to(self.directory))
                for path in self.directory.rglob("*.ext4")
                if "jail" not in path.parts and "artifacts" not in path.parts
            ),
            "open": sorted(path.name for path in self.disks.devices.glob("*")),
            "reservations": self.reservations(),
            "audit": {
                tenant: [entry["action"] for entry in entries]
                for tenant, entries in self.records.audits.items()
            },
        }

    def reservations(self) -> list[tuple[str, str, str]]:
        return self.ledger.database.rows(
            "SELECT kind, key, owner FROM reservations ORDER BY kind, key"
        )

    def close(self) -> None:
        self.ledger.close()
