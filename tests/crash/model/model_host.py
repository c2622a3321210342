"""The host of the state machine: the fake machine, with a history that outlives every kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

from enqueue.requests import InstanceId
from tests.fakes.fuse import Fuse, KilledError
from tests.fakes.vmm import FakeVmm, Guest
from tests.fakes.world import NOW_S, InlineExecutors, World
from worker.ledger.entries import LedgerEntry
from worker.ledger.requests import Requests
from worker.model.names import InstanceRef
from worker.ports import VmmState, VmSpec
from worker.request.reconcile import reconcile_one
from worker.scheduling.waits import Backoff, Wait

LIFE = 1_000_000  # a guest's memory starts at the number of its boot times this


class Kill(NamedTuple):
    """SIGKILL before or after the n-th effect."""

    at: int
    after: bool


class Run(NamedTuple):
    """One run of a request; a retry by hand is another run."""

    request_id: str
    number: int


@dataclass
class History:
    """The history of instances, in order.

    `attempts` are the runs attempted, `boots` those that booted each guest, `disturbed` the
    instances whose guest has ended by itself since their last attempt, `jumped` who ran before
    an earlier request of its instance.
    """

    attempts: list[tuple[str, Run]] = field(default_factory=list)
    boots: dict[InstanceRef, list[Run | None]] = field(default_factory=dict)
    disturbed: set[InstanceId] = field(default_factory=set)
    jumped: list[str] = field(default_factory=list)

    def begins(self, entry: LedgerEntry, instance: str | None) -> None:
        """Records the begin of an attempt."""
        self.attempts.append((instance or "", Run(entry.request_id, entry.runs)))
        if instance is not None:
            self.disturbed.discard(InstanceId(instance))

    def ended(self, ref: InstanceRef) -> None:
        """Records that the guest exited: the same run may boot it again."""
        self.disturbed.add(ref.instance_id)
        self.boots.setdefault(ref, []).append(None)


class PlayedRequests(Requests):
    """The requests; records attempts, and whether another request should have been first."""

    played: ClassVar[History]

    def begin_attempt(self, request_id: str, now_ms: int, *, alone: bool = False) -> LedgerEntry:
        entry = super().begin_attempt(request_id, now_ms, alone=alone)
        with self._database.transaction() as db:
            instance = db.execute(
                "SELECT instance_id FROM requests WHERE request_id = ?", (request_id,)
            ).fetchone()[0]
            earlier = db.execute(
                "SELECT request_id FROM requests WHERE instance_id = ? AND state = 'accepted'"
                " AND seq < ?",
                (instance, entry.seq),
            ).fetchall()
        self.played.jumped += [f"{request_id} before {other}" for (other,) in earlier]
        self.played.begins(entry, instance)
        return entry


class PlayedVmm(FakeVmm):
    """Guests whose memory shows the boot it began with, and grows while they run."""

    played: ClassVar[History]

    def boot(self, spec: VmSpec) -> None:
        super().boot(spec)
        boots = self.played.boots.setdefault(spec.ref, [])
        boots.append(self.played.attempts[-1][1])
        self.machine.guests[spec.ref].memory = len(boots) * LIFE
        self.memory(spec.ref)

    def resume(self, ref: InstanceRef) -> None:
        super().resume(ref)
        self.memory(ref)


class PatientExecutors(InlineExecutors):
    """Executors whose timed waits end only by the world's clock."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._due_s: dict[int, float] = {}

    def run(self) -> None:
        """Runs until no story can continue now."""
        super().run()
        while due := [n for n, at_s in self._due_s.items() if NOW_S + at_s <= self._world.now_s]:
            for number in due:
                del self._due_s[number]
            self._ready.extend(due)
            super().run()

    def _place(self, number: int, wait: Wait) -> None:
        if isinstance(wait, Backoff):
            self._due_s[number] = wait.due_s
        else:
            super()._place(number, wait)


class PlayedFuse(Fuse):
    """A fuse that can also call a function right after an effect."""

    happens_at: int = 0
    happens: Callable[[], None] = staticmethod(lambda: None)

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        with super().effect(name):
            yield
        if len(self.seen) == self.happens_at:
            self.happens()


class ModelHost(World):
    """A host, its mishaps, and its Redis, which can lose what the clients still know."""

    requests_type = PlayedRequests
    executors_type = PatientExecutors
    fuse_type = PlayedFuse
    vmm_type = PlayedVmm

    def __init__(self, directory: Path) -> None:
        self.history = History()
        self.exits: list[InstanceRef] = []
        self.boots = 0
        super().__init__(directory)

    def start(self) -> None:
        PlayedVmm.played = PlayedRequests.played = self.history
        super().start()

    def works(self, work: Callable[[], None], kills: list[Kill]) -> None:
        """Lets hostd do this; after a kill it starts again, and may be killed again."""
        for kill in kills:
            self.fuse.rearm(kill.at, after=kill.after)
            try:
                work()
                self.noticed()
            except KilledError:
                self.exits.clear()
                work = self.restart
            else:
                self.fuse.rearm()
                return
        self.fuse.rearm()
        work()
        self.noticed()

    def exits_at(self, ref: InstanceRef, at: int) -> None:
        """Lets the guest exit right after the n-th effect; 0: never."""
        assert isinstance(self.fuse, PlayedFuse)
        self.fuse.happens_at, self.fuse.happens = at, lambda: self.exit(ref)

    def exit(self, ref: InstanceRef) -> None:
        """Lets the guest exit."""
        if ref in self.vmm.machine.guests:
            self.vmm.dies(ref)
            self.history.ended(ref)
            self.exits.append(ref)

    def noticed(self) -> None:
        """Lets hostd see the exits, as its watch does."""
        while self.exits:
            reconcile_one(self.exits.pop(), "exit code 0", self.context)
        self.executors.run()

    def reboot(self) -> None:
        """Reboots: removes processes, devices, rules, groups and memory."""
        for ref in list(self.vmm.machine.guests):
            self.vmm.dies(ref)
            self.history.ended(ref)
        self.exits.clear()
        for gone in (
            self.links.devices, self.firewall.rules, self.firewall.guest_rules, self.cgroups.groups,
        ):  # fmt: skip
            gone.clear()
        for instance in self.disks.secrets():
            self.disks.secrets_path(instance).unlink()
        self.boots += 1
        self.vmm.machine.platform = replace(self.vmm.machine.platform, boot_id=f"boot-{self.boots}")

    def guest(self, ref: InstanceRef) -> Guest | None:
        """The guest of the instance, if there is one."""
        return self.vmm.machine.guests.get(ref)

    def runs(self, ref: InstanceRef) -> bool:
        """Whether its guest's vCPUs run."""
        guest = self.guest(ref)
        return guest is not None and guest.state is VmmState.RUNNING

    def close(self) -> None:
        super().close()
        for ref in list(self.vmm.machine.guests):
            del self.vmm.machine.guests[ref]
