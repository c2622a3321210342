"""Runs a plan against a host, one journalled step at a time.

Look; if it does not hold, write down, act, look again.  A kill at any instruction leaves a state
from which running the plan again reaches the same end.  Deadlines are checked between steps
only: nothing is ever interrupted.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from enqueue.results import StepReport
from enqueue.times import Clock
from worker.errors import Broken, HostdError, LedgerError, Transient
from worker.ports import Host
from worker.steps.step import IrrevocableError, Step

log = logging.getLogger("hostd")


class Journal(Protocol):
    """Durable record of how far a request has come."""

    def began(self, request_id: str, step: str, now_ms: int) -> None: ...
    def finished(self, request_id: str, step: str, now_ms: int) -> None: ...
    def begun_steps(self, request_id: str) -> frozenset[str]: ...
    def undone(self, request_id: str, steps: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a plan ended; `undone` names the steps that were undone after `error`."""

    reports: tuple[StepReport, ...]
    detail: Mapping[str, Any]
    error: HostdError | None = None
    undone: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether any step changed the machine."""
        return any(report.applied for report in self.reports)


def execute(
    plan: Sequence[Step],
    *,
    host: Host,
    journal: Journal,
    request_id: str,
    clock: Clock,
    deadline_s: float,
) -> Outcome:
    """Makes every step of `plan` true, or undoes what this request began.

    `deadline_s` is on the monotonic clock.  Expected failures are in the outcome, never raised.
    """
    reports: list[StepReport] = []
    detail: dict[str, Any] = {}
    try:
        for step in plan:
            _check_time(step, clock, deadline_s)
            reports.append(_make_true(step, host, journal, request_id, clock, detail))
    except LedgerError:
        raise  # the journal: hostd must not continue without it
    except Exception as caught:  # noqa: BLE001  a bug in a step is a result, and undone
        error = caught if isinstance(caught, HostdError) else _unexpected(caught)
        undone = _undo(plan, host, journal, request_id)
        return Outcome(tuple(reports), detail, error, undone)
    return Outcome(tuple(reports), detail)


def _check_time(step: Step, clock: Clock, deadline_s: float) -> None:
    if clock.monotonic() >= deadline_s:
        raise Transient("deadline", f"time ran out before step {step.name}")


def _unexpected(error: Exception) -> HostdError:
    """An errno that no adapter has given a meaning, or a bug."""
    said = f"{type(error).__name__}: {error}"
    if not isinstance(error, OSError):
        log.error("bug in a step", exc_info=error)
        return Broken("bug", said, hint="please report it, with hostd's log")
    if error.errno == errno.ENOSPC:
        return Transient("no_space", str(error), hint="free space on the host's state directory")
    return Broken("host_error", said, hint="see hostd's log")


def _make_true(
    step: Step,
    host: Host,
    journal: Journal,
    request_id: str,
    clock: Clock,
    detail: dict[str, Any],
) -> StepReport:
    began = clock.monotonic()
    applied = not step.done(host)
    if applied:
        journal.began(request_id, step.name, clock.now_ms())
        detail.update(step.apply(host) or {})
        if not step.done(host):
            raise Broken("no_effect", f"step {step.name} returned, but its effect is missing")
    journal.finished(request_id, step.name, clock.now_ms())
    took_ms = round((clock.monotonic() - began) * 1000, 3)
    return StepReport(name=step.name, ms=took_ms, applied=applied)


def _undo(plan: Sequence[Step], host: Host, journal: Journal, request_id: str) -> tuple[str, ...]:
    """Undoes, in reverse, the steps that the request's own journal has as begun.

    An undo that fails does not stop the others: the next attempt's checks or the sweep find what it
    leaves.  A step that cannot be undone ends it.
    """
    begun = journal.begun_steps(request_id)
    undone = []
    for step in reversed([step for step in plan if step.name in begun]):
        try:
            step.undo(host)
        except IrrevocableError:
            break
        except LedgerError:
            raise
        except Exception:
            log.exception("cannot undo step %s of %s", step.name, request_id)
        else:
            undone.append(step.name)
    journal.undone(request_id, undone)
    return tuple(undone)
