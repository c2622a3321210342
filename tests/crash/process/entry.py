"""`hostd run` with every effect numbered, and a SIGKILL before or after one of them.

Only requests run: there is no housekeeping, and the consumer takes nothing more until the results
of what it took are published.  So with `[worker] threads = 1` the same request has the same effects
in the same order, each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from tests.crash.process import seams
from tests.crash.process.fuse import At, Fuse
from worker.cli import main
from worker.daemon.hostd import Hostd
from worker.daemon.housekeeping import Housekeeping
from worker.queue.consumer import HostWorker
from worker.queue.publisher import RedisPublisher


class Counting(Enum):
    """Which effects are counted."""

    START = "start"  # those of hostd's own work at its start
    REQUEST = "request"  # from taking the request to publishing its result


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """How the process runs."""

    config: str
    log: str  # of effects
    counting: Counting | None = None  # None: an ordinary `hostd run`
    at: At | None = None


def run(order: Order) -> int:
    """Serves until it is killed; with effects counted, until they end, and then returns 0."""
    arguments = ["--config", order.config, "run"]
    if order.counting is None:
        return main(arguments)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    fuse = Fuse(log, order.at)
    _only_requests(fuse, order.counting)
    seams.wrap(fuse)
    return main(arguments)


def _only_requests(fuse: Fuse, counting: Counting) -> None:
    seams.put(Housekeeping, "run", _idle)
    started, work, deliver = Hostd.run, HostWorker.work, Hostd.deliver
    publish = RedisPublisher.publish
    served: list[Hostd] = []

    def run_counted(hostd: Hostd) -> None:
        served.append(hostd)
        if counting is Counting.START:
            fuse.arm()
        started(hostd)

    def work_counted(worker: HostWorker, *rest: Any) -> bool:
        _until_idle(served[0])
        if counting is Counting.START:
            fuse.disarm()
            os._exit(0)
        fuse.arm()
        return work(worker, *rest)

    def deliver_counted(hostd: Hostd, deliveries: Sequence[Any]) -> None:
        deliver(hostd, deliveries)
        _until_idle(hostd)
        os._exit(0)

    def publish_counted(publisher: RedisPublisher, *results: Any, **more: Any) -> None:
        publish(publisher, *results, **more)
        fuse.disarm()  # effects of a VMM's exit have no fixed place in the order

    seams.put(RedisPublisher, "publish", publish_counted)
    seams.put(Hostd, "run", run_counted)
    seams.put(HostWorker, "work", work_counted)
    seams.put(Hostd, "deliver", deliver_counted)


def _until_idle(hostd: Hostd) -> None:
    state = hostd.executors._state
    with state:
        while not hostd.executors.idle():
            state.wait(0.002)


def _idle(keeper: Housekeeping) -> None:
    keeper.worker.stopping.wait()


if __name__ == "__main__":
    sys.exit(run(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)))
