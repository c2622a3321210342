"""Keys in Redis: RQ's own for one host's queue, and the few that hostd adds.

RQ's names are those of rq 3.0 (`rq/queue.py`, `rq/registry.py`, `rq/results.py`), pinned by a test
against the installed package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

JobState = Literal["queued", "deferred", "started", "failed", "canceled", "finished"]
JOB_STATES: Final[tuple[JobState, ...]] = get_args(JobState)
PENDING: Final[tuple[JobState, ...]] = ("queued", "deferred", "started", "failed")

QUEUES: Final = "rq:queues"
WORKERS: Final = "rq:workers"


def job_id(host: str, request_id: str) -> str:
    """The RQ job id of a request; host names have no `_`, so key patterns separate hosts."""
    return f"{host}_{request_id}"


def job(id_: str) -> str:
    """The hash of a job."""
    return f"rq:job:{id_}"


def results(id_: str) -> str:
    """The stream of a job's results."""
    return f"rq:results:{id_}"


@dataclass(frozen=True, slots=True)
class HostKeys:
    """The keys of one host's queue."""

    host: str

    @property
    def queue_name(self) -> str:
        """RQ's name of the queue."""
        return f"hostd:{self.host}"

    @property
    def queue(self) -> str:
        """List of waiting job ids."""
        return f"rq:queue:{self.queue_name}"

    @property
    def intermediate(self) -> str:
        """List of job ids that hostd has taken, and whose result it has not published yet."""
        return f"{self.queue}:intermediate"

    @property
    def quarantine(self) -> str:
        """List of refused entries, newest last, each `{"job_id", "reason", "at_ms"}`."""
        return f"{self.queue}:quarantine"

    @property
    def started(self) -> str:
        """Sorted set of running job ids, score +inf."""
        return f"rq:wip:{self.queue_name}"

    @property
    def deferred(self) -> str:
        """Sorted set of job ids that hostd has taken and that wait for their turn."""
        return f"rq:deferred:{self.queue_name}"

    @property
    def finished(self) -> str:
        """Sorted set of finished job ids."""
        return f"rq:finished:{self.queue_name}"

    @property
    def failed(self) -> str:
        """Sorted set of failed job ids: the dead letters."""
        return f"rq:failed:{self.queue_name}"

    @property
    def canceled(self) -> str:
        """Sorted set of superseded and cancelled job ids."""
        return f"rq:canceled:{self.queue_name}"

    @property
    def events(self) -> str:
        """Stream of the host's events."""
        return f"hostd:events:{self.host}"

    @property
    def owner(self) -> str:
        """The id of the machine that serves this host name; it has a TTL."""
        return f"hostd:owner:{self.host}"
