"""Which requests are parked while the host drains.

Starts, wakes and new networks; and requests that must not overtake one that is parked: a later one
of its instance, a network operation of its tenant.  (A Stop or Destroy supersedes a waiting start
before it comes here.)
"""

from __future__ import annotations

from collections.abc import Collection

from enqueue.requests import InstanceRequest, NetworkRequest, Ping, Request
from worker.drain.policy import Drain
from worker.plans.operations import operation_of
from worker.protocol.verification import is_own
from worker.request.in_flight import InFlight
from worker.scheduling.waits import Turn


def barred(
    turn: Turn, parked: Collection[object], drain: Drain, *, now_ms: int, rebooted: bool
) -> bool:
    """Whether a turn must be parked, given what is parked already.

    An interrupted request continues, so that no instance is left between two states.  A start does
    not after a reboot, which left nothing of it.
    """
    in_flight = turn.in_flight
    if not drain.in_force or not isinstance(in_flight, InFlight):
        return False
    request = in_flight.verified.body.request
    if turn.interrupted and not (rebooted and operation_of(request).new_work):
        return False
    if is_own(in_flight.verified.body):
        return _is_obsolete(request, drain, now_ms)
    return operation_of(request).new_work or any(_follows(in_flight, one) for one in parked)


def _is_obsolete(request: Request, drain: Drain, now_ms: int) -> bool:
    """Whether a request of hostd's own is from an earlier undrain, or too late for this drain."""
    if operation_of(request).new_work:
        return drain.phase != "undraining"
    return drain.phase != "draining" or now_ms >= drain.deadline_ms


def _follows(later: InFlight, earlier: object) -> bool:
    if not isinstance(earlier, InFlight) or earlier.entry.seq >= later.entry.seq:
        return False
    mine, other = later.verified.body.request, earlier.verified.body.request
    if isinstance(mine, Ping) or isinstance(other, Ping):
        return False
    if isinstance(mine, NetworkRequest):
        return mine.tenant_id == other.tenant_id
    return isinstance(other, InstanceRequest) and mine.instance_id == other.instance_id
