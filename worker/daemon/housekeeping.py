"""What a running hostd does besides its requests, once a second or less often."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from worker.ledger.ledger import Ledger
from worker.queue.connection import RedisAway
from worker.queue.consumer import HostWorker
from worker.queue.publisher import RedisPublisher
from worker.request.in_flight import InFlight
from worker.scheduling.executors import Executors

log = logging.getLogger("hostd")
BEAT_S: Final = 10.0
PRUNE_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """Heartbeat, publishing after an outage, RQ's deferred registry, and pruning of the ledger.

    `claim` refreshes the key that says which machine serves this host name; `record_boot` records
    that every instance has been reconciled; `trim` keeps VMMs' logs small; `write_marker` writes
    the ledger's marker; `drain` continues a drain.
    """

    worker: HostWorker
    executors: Executors
    publisher: RedisPublisher
    ledger: Ledger
    retention_days: int
    claim: Callable[[], None]
    record_boot: Callable[[], None]
    trim: Callable[[], None]
    write_marker: Callable[[], None]
    drain: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Runs until the worker stops."""
        shown: set[str] = set()
        next_beat = next_prune = next_trim = 0.0
        self.worker.connected.wait(BEAT_S)
        _spare_collections()
        while not self.worker.stopping.wait(1.0):
            if time.monotonic() >= next_prune:
                next_prune = time.monotonic() + PRUNE_S
                self._prune()
            self.record_boot()
            self.drain()
            if time.monotonic() >= next_trim:
                next_trim = time.monotonic() + BEAT_S
                self.trim()
                self.write_marker()
            if not self.worker.connected.is_set():
                continue
            if self.publisher.backlog() or self.ledger.outbox.unpublished():
                self.publisher.flush()
            try:
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + BEAT_S
                    self.claim()
                    self.worker.beat()
                shown = self._show_waiting(shown)
            except RedisAway as error:
                log.debug("housekeeping: %s", error)

    def _prune(self) -> None:
        """Deletes requests published so long ago that no caller may send them again."""
        kept_s = self.retention_days * 86_400
        if gone := self.ledger.prune(before_ms=int((time.time() - kept_s) * 1000)):
            log.info("forgot %d requests older than the ledger's retention", gone)

    def _show_waiting(self, shown: set[str]) -> set[str]:
        waiting = {one.delivery.id for one in self.executors.waiting() if isinstance(one, InFlight)}
        if waiting != shown:
            self.publisher.mark_deferred(waiting - shown, no_more=shown - waiting)
        return waiting


def _spare_collections() -> None:
    """Makes the garbage collector skip what is loaded by now: walking it took 30 ms each time."""
    gc.freeze()
    gc.set_threshold(2_000)
