"""A drain, carried out: new work waits outside, what runs is put away within the deadline.

All of its state is one note in the ledger (`worker.drain.policy.Drain`), so a killed hostd, or a
rebooted host, goes on where it was.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgspec

from worker.drain import policy as plans
from worker.drain.admission import barred
from worker.drain.policy import Drain, Guest
from worker.drain.requests import Asked, bring_back, put_away, with_outcomes, withdraw
from worker.drain.store import announce, load, running_guests, save
from worker.errors import HostdError
from worker.job import fulfil
from worker.plans.operations import operation_of
from worker.protocol.delivery import Delivery
from worker.protocol.verification import trusted
from worker.request.cancel import may_end
from worker.request.context import Context
from worker.request.in_flight import InFlight
from worker.scheduling.waits import Turn, Wait

log = logging.getLogger("hostd")

MEASURED_SLEEPS: Final = 20


class DrainController:
    """Whether this host drains, and what comes of it.  Methods may be called from any thread."""

    def __init__(self, ctx: Context, *, rebooted: bool = False) -> None:
        """`rebooted`: nothing is left of a start that the host went down in."""
        self._ctx = ctx
        self._rebooted = rebooted
        self._acting = threading.Lock()
        self._drain: Drain | None = None  # as last seen: the gate asks under the executors' lock

    def resume(self) -> None:
        """The gate is closed if a drain is in force.  To be called before anything is taken up."""
        self._saw(load(self._ctx.ledger))

    def look(self) -> None:
        """Does what is due.  To be called once a second, and when a request of its own ends."""
        with self._acting:
            drain = load(self._ctx.ledger)
            if drain != self._drain:
                self._saw(drain)
            if drain is None:
                return
            try:
                match drain.phase:
                    case "draining":
                        self._go_on(drain)
                    case "undraining":
                        self._undrain()
                    case "drained" | "undrained":
                        pass
            except (HostdError, OSError) as error:
                log.warning("drain %s: %s; looking again", drain.id, error)

    def _saw(self, drain: Drain | None) -> None:
        """The gate stands as the drain says."""
        was_closed = self._drain is not None and self._drain.in_force
        self._drain = drain
        if drain is not None and drain.in_force and not was_closed:
            self._ctx.executors.close_admission(self._barred)
            log.warning("host is draining (%s): new work waits", drain.id)
        elif was_closed and (drain is None or not drain.in_force):
            self._ctx.executors.open_admission()
            log.warning("host drains no more: what waited goes on")

    def _barred(self, turn: Turn, parked: Collection[object]) -> bool:
        drain, now_ms = self._drain, self._ctx.clock.now_ms()
        if drain is None:
            return False
        return barred(turn, parked, drain, now_ms=now_ms, rebooted=self._rebooted)

    def _go_on(self, seen: Drain) -> None:
        """What ended is noted, what is due is begun, in one transaction with the note."""
        ledger, now_ms = self._ctx.ledger, self._ctx.clock.now_ms()
        if now_ms >= seen.deadline_ms:
            withdraw(self._ctx)
        starting = self._starting()  # first: what ends between the two looks is seen by one
        there, rate_mib_s = running_guests(self._ctx.host), self._rate_mib_s()
        with ledger.transaction():
            before = load(ledger)
            if before is None or before.phase != "draining":
                return  # called off meanwhile
            drain = with_outcomes(msgspec.structs.replace(before, rate_mib_s=rate_mib_s), self._ctx)
            drain = plans.in_order(plans.with_running(drain, there), now_ms=now_ms)
            if not before.rate_mib_s:  # the first look since it was asked for
                announce(drain, ledger, now_ms=now_ms)
            drain, asked, more = self._begun(drain, now_ms)
            if not starting and not more and drain.idle:
                drain = msgspec.structs.replace(drain, phase="drained", ended_ms=now_ms)
                announce(drain, ledger, now_ms=now_ms)
            if drain != before:
                save(drain, ledger)
        self._saw(drain)
        self._submit(asked)

    def _begun(self, drain: Drain, now_ms: int) -> tuple[Drain, list[Asked], bool]:
        """The drain with what could be begun now, its requests, and whether there were any."""
        due: list[Guest] = plans.next_guests(
            drain, now_ms=now_ms, lanes=self._ctx.config.worker.threads
        )
        all_asked = []
        for guest in due:
            drain, asked = put_away(guest, drain, self._ctx, now_ms=now_ms)
            all_asked.append(asked)
        return drain, all_asked, bool(due)

    def _undrain(self) -> None:
        """What the drain has put away, and nobody has decided about since, is brought back."""
        ledger, now_ms = self._ctx.ledger, self._ctx.clock.now_ms()
        withdraw(self._ctx)
        wanted = []
        with ledger.transaction():
            before = load(ledger)
            if before is None or before.phase != "undraining":
                return
            drain = with_outcomes(before, self._ctx)
            if not drain.idle:
                return  # until what runs has ended
            for guest in sorted(drain.guests, key=lambda guest: guest.mem_mib):
                drain, asked = bring_back(guest, drain, self._ctx, now_ms=now_ms)
                wanted += [asked] if asked is not None else []
            drain = msgspec.structs.replace(drain, phase="undrained", ended_ms=now_ms)
            save(drain, ledger)
            announce(drain, ledger, now_ms=now_ms)
        self._submit(wanted)  # in line before what waits at the gate
        self._saw(drain)

    def _submit(self, wanted: Iterable[Asked]) -> None:
        for asked in wanted:
            self._ctx.executors.submit(self._carried_out(asked))

    def _carried_out(self, asked: Asked) -> Iterator[Wait]:
        """The request's story, and a look at what comes next."""
        verified, entry = asked
        yield from fulfil(verified, entry, Delivery.of(verified), self._ctx)
        self.look()

    def _starting(self) -> bool:
        """Whether new work that had begun before the drain still runs: a guest may come of it."""
        ctx = self._ctx
        subjects = [one for one in ctx.executors.running() if isinstance(one, InFlight)]
        if any(operation_of(one.verified.body.request).new_work for one in subjects):
            return True
        if self._rebooted:
            return False
        under_way = [entry for entry in ctx.ledger.requests.unfinished() if not may_end(entry, ctx)]
        return any(operation_of(trusted(one.call).body.request).new_work for one in under_way)

    def _rate_mib_s(self) -> float:
        """What the disk takes in: as sleeps have shown, else as configured."""
        sleeps = self._ctx.ledger.requests.done("SleepInstance", limit=MEASURED_SLEEPS)
        shown = plans.measured(entry.result for entry in sleeps)
        return shown or self._ctx.config.drain.assumed_mib_s
