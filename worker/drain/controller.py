"""Carries out a drain: parks new work, and puts running guests to sleep before the deadline.

Its state is one value in the ledger (`worker.drain.policy.Drain`), so a restarted hostd, or a
rebooted host, continues where it was.
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
from worker.drain.requests import Recorded, bring_back, put_away, with_outcomes, withdraw
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
    """Drains and undrains this host.  Methods may be called from any thread."""

    def __init__(self, ctx: Context, *, rebooted: bool = False) -> None:
        """`rebooted`: starts that were interrupted by the host's reboot left nothing behind."""
        self._ctx = ctx
        self._rebooted = rebooted
        self._acting = threading.Lock()
        self._drain: Drain | None = None  # as last seen; read under the executors' lock

    def resume(self) -> None:
        """Closes admission if a drain is in force.  Call it before any request is resumed."""
        self._apply(load(self._ctx.ledger))

    def step(self) -> None:
        """Takes the next step.  Called once a second, and when one of the drain's requests ends."""
        with self._acting:
            drain = load(self._ctx.ledger)
            if drain != self._drain:
                self._apply(drain)
            if drain is None:
                return
            try:
                match drain.phase:
                    case "draining":
                        self._continue(drain)
                    case "undraining":
                        self._undrain()
                    case "drained" | "undrained":
                        pass
            except (HostdError, OSError) as error:
                log.warning("drain %s: %s; trying again", drain.id, error)

    def _apply(self, drain: Drain | None) -> None:
        """Closes or opens admission as the drain requires."""
        was_closed = self._drain is not None and self._drain.in_force
        self._drain = drain
        if drain is not None and drain.in_force and not was_closed:
            self._ctx.executors.close_admission(self._barred)
            log.warning("host is draining (%s): new work waits", drain.id)
        elif was_closed and (drain is None or not drain.in_force):
            self._ctx.executors.open_admission()
            log.warning("drain ended: queued requests resume")

    def _barred(self, turn: Turn, parked: Collection[object]) -> bool:
        drain, now_ms = self._drain, self._ctx.clock.now_ms()
        if drain is None:
            return False
        return barred(turn, parked, drain, now_ms=now_ms, rebooted=self._rebooted)

    def _continue(self, seen: Drain) -> None:
        """Records which guests ended and begins the next ones, in one transaction."""
        ledger, now_ms = self._ctx.ledger, self._ctx.clock.now_ms()
        if now_ms >= seen.deadline_ms:
            withdraw(self._ctx)
        starting = self._starting()  # before the guests, so that an ending start is not missed
        there, rate_mib_s = running_guests(self._ctx.host), self._rate_mib_s()
        with ledger.transaction():
            before = load(ledger)
            if before is None or before.phase != "draining":
                return  # ended meanwhile
            drain = with_outcomes(msgspec.structs.replace(before, rate_mib_s=rate_mib_s), self._ctx)
            drain = plans.in_order(plans.with_running(drain, there), now_ms=now_ms)
            if not before.rate_mib_s:  # the first step since it was requested
                announce(drain, ledger, now_ms=now_ms)
            drain, asked, more = self._begin(drain, now_ms)
            if not starting and not more and drain.idle:
                drain = msgspec.structs.replace(drain, phase="drained", ended_ms=now_ms)
                announce(drain, ledger, now_ms=now_ms)
            if drain != before:
                save(drain, ledger)
        self._apply(drain)
        self._submit(asked)

    def _begin(self, drain: Drain, now_ms: int) -> tuple[Drain, list[Recorded], bool]:
        """Begins what is due; returns the drain, its new requests, and whether there were any."""
        due: list[Guest] = plans.next_guests(
            drain, now_ms=now_ms, lanes=self._ctx.config.worker.threads
        )
        all_asked = []
        for guest in due:
            drain, asked = put_away(guest, drain, self._ctx, now_ms=now_ms)
            all_asked.append(asked)
        return drain, all_asked, bool(due)

    def _undrain(self) -> None:
        """Brings back the guests that the drain put away and no later request changed."""
        ledger, now_ms = self._ctx.ledger, self._ctx.clock.now_ms()
        withdraw(self._ctx)
        wanted = []
        with ledger.transaction():
            before = load(ledger)
            if before is None or before.phase != "undraining":
                return
            drain = with_outcomes(before, self._ctx)
            if not drain.idle:
                return  # wait until its running requests have ended
            for guest in sorted(drain.guests, key=lambda guest: guest.mem_mib):
                drain, asked = bring_back(guest, drain, self._ctx, now_ms=now_ms)
                wanted += [asked] if asked is not None else []
            drain = msgspec.structs.replace(drain, phase="undrained", ended_ms=now_ms)
            save(drain, ledger)
            announce(drain, ledger, now_ms=now_ms)
        self._submit(wanted)  # queued before what is parked
        self._apply(drain)

    def _submit(self, wanted: Iterable[Recorded]) -> None:
        for asked in wanted:
            self._ctx.executors.submit(self._story(asked))

    def _story(self, asked: Recorded) -> Iterator[Wait]:
        """The request's story, followed by the drain's next step."""
        verified, entry = asked
        yield from fulfil(verified, entry, Delivery.of(verified), self._ctx)
        self.step()

    def _starting(self) -> bool:
        """Whether new work that began before the drain still runs: it may start a guest."""
        ctx = self._ctx
        in_flight = [one for one in ctx.executors.running() if isinstance(one, InFlight)]
        if any(operation_of(one.verified.body.request).new_work for one in in_flight):
            return True
        if self._rebooted:
            return False
        begun = [entry for entry in ctx.ledger.requests.unfinished() if not may_end(entry, ctx)]
        return any(operation_of(trusted(one.call).body.request).new_work for one in begun)

    def _rate_mib_s(self) -> float:
        """The disk's rate: measured from earlier sleeps, or as configured."""
        sleeps = self._ctx.ledger.requests.done("SleepInstance", limit=MEASURED_SLEEPS)
        shown = plans.measured(entry.result for entry in sleeps)
        return shown or self._ctx.config.drain.assumed_mib_s
