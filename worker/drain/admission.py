"""What waits outside while the host drains.

Starts, wakes and new networks; and what would overtake one of these that waits, where order
matters: a later request of its instance, a network operation of its tenant.  (A Stop or Destroy
takes a waiting start out of the way before it comes here.)
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
    """Whether a turn waits outside, beside what is parked there.

    What a killed hostd had half done goes on, so that nothing is left between two states; but
    after a reboot nothing is left of a start.
    """
    subject = turn.in_flight
    if not drain.in_force or not isinstance(subject, InFlight):
        return False
    request = subject.verified.body.request
    if turn.interrupted and not (rebooted and operation_of(request).new_work):
        return False
    if is_own(subject.verified.body):
        return _not_begun_any_more(request, drain, now_ms)
    return operation_of(request).new_work or any(_follows(subject, one) for one in parked)


def _not_begun_any_more(request: Request, drain: Drain, now_ms: int) -> bool:
    """Of what hostd asks of itself: an earlier undrain's, and what comes too late for this one."""
    if operation_of(request).new_work:
        return drain.phase != "undraining"
    return drain.phase != "draining" or now_ms >= drain.deadline_ms


def _follows(subject: InFlight, earlier: object) -> bool:
    if not isinstance(earlier, InFlight) or earlier.entry.seq >= subject.entry.seq:
        return False
    mine, other = subject.verified.body.request, earlier.verified.body.request
    if isinstance(mine, Ping) or isinstance(other, Ping):
        return False
    if isinstance(mine, NetworkRequest):
        return mine.tenant_id == other.tenant_id
    return isinstance(other, InstanceRequest) and mine.instance_id == other.instance_id
