"""Crash suspects: requests whose attempt was running when hostd died are retried one at a time.

Only a crash while a request ran alone counts against it.  After a second crash in a row nothing
else runs beside a suspect, so that a busy host, too, finds the one that kills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from enqueue.requests import Request
from worker.errors import Broken
from worker.ledger.entries import Attempting, LedgerEntry
from worker.ledger.ledger import Ledger
from worker.plans.operations import operation_of
from worker.scheduling.turns import EXCLUSIVE, SHARED, Key

MAX_CRASHES: Final = 3
ONE_AT_A_TIME: Final[Key] = ("suspects", "")
NOTHING_ELSE: Final[Key] = ("everything", "")
_UNCLEAN: Final = "unclean_starts"


@dataclass(slots=True)
class CrashSuspects:
    """What a starting hostd concludes from the end of the last one.

    `strict` says that nothing runs beside a suspect; `untried` counts those not tried yet.
    """

    strict: bool = False
    untried: int = 0

    def keys(self, *, suspect: bool) -> Mapping[Key, bool]:
        """The extra keys of a request, besides its own."""
        if suspect:
            more = {NOTHING_ELSE: EXCLUSIVE} if self.strict else {}
            return {ONE_AT_A_TIME: EXCLUSIVE, **more}
        return {NOTHING_ELSE: SHARED} if self.strict and self.untried else {}

    def tried(self) -> None:
        """One more suspect has been tried, and hostd did not crash."""
        self.untried -= 1


def suspects_at_start(ledger: Ledger) -> CrashSuspects:
    """Counts the crash, if the last hostd crashed, against the request that ran alone."""
    with ledger.transaction():
        interrupted, suspects = ledger.requests.mark_suspects()
        unclean = int(ledger.meta.get(_UNCLEAN) or 0) + 1 if interrupted else 0
        ledger.meta.set(_UNCLEAN, str(unclean))
    return CrashSuspects(strict=unclean > 1, untried=suspects)


def is_suspect(entry: LedgerEntry) -> bool:
    """Whether the request was in an attempt when a hostd died, and has not been tried since."""
    return entry.attempting is Attempting.SUSPECT


def too_dangerous(entry: LedgerEntry, request: Request) -> Broken | None:
    """Why the request is not tried again; None if it is.  A Destroy always is."""
    if entry.crashes < MAX_CRASHES or operation_of(request).runs_despite_crashes:
        return None
    return Broken(
        "quarantined",
        f"hostd died {entry.crashes} times while it carried out this request and nothing else",
        hint="read hostd's log and the kernel's before each crash, then retry it by hand; "
        "DestroyInstance stays possible",
    )
