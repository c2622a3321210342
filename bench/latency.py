"""One job at a time, from enqueue to result: a Ping, RQ's SimpleWorker, a bare BLMOVE loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Final

from redis import Redis
from rq import Queue

from bench import stock
from bench.figures import Figure, Target, compared, figure, in_turns, percentile, timed_ms
from bench.sandbox import HOST, Sandbox
from bench.scale import Scale
from enqueue.client import HostClient
from enqueue.requests import Ping
from enqueue.results import Pong

NAME: Final = "Ping, enqueue to result"
WAIT_S: Final = 60
WARM_UP: Final = 10


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """Latency of a Ping next to RQ and the bare loop."""
    with box.client() as client, box.redis() as redis, box.worker(), stock_workers(box):
        queue = Queue(stock.QUEUE, connection=redis)
        ids = count()
        jobs: dict[str, Callable[[], None]] = {
            "hostd": lambda: hostd_ping(client),
            "rq": lambda: rq_job(queue),
            "bare": lambda: bare_job(redis, str(next(ids))),
        }
        for job in jobs.values():  # uploads scripts, does late imports
            _timed(job, WARM_UP)
        parts = {name: lambda job=job: _timed(job, scale.pings) for name, job in jobs.items()}
        samples = in_turns(scale.rounds, parts)
    yield compared(
        f"{NAME}, p50, next to RQ SimpleWorker", samples, "ms", subject="hostd", against="rq",
        target=Target("ratio", "<=", 0.3),
    )  # fmt: skip
    yield compared(
        f"{NAME}, p50, next to a bare BLMOVE loop", samples, "ms", subject="hostd", against="bare"
    )
    slow = {
        name: percentile([s for part in parts for s in part], 99) for name, parts in samples.items()
    }
    yield figure(f"{NAME}, p99, next to RQ SimpleWorker", slow["hostd"], "ms", baseline=slow["rq"])


@contextmanager
def stock_workers(box: Sandbox) -> Iterator[None]:
    """RQ's SimpleWorker and the bare loop run."""
    kinds = ("rq", "bare")
    for kind in kinds:
        box.spawn(kind, [sys.executable, "-m", "bench.stock", kind, box.redis_url])
    try:
        yield
    finally:
        for kind in kinds:
            box.end(kind)


def hostd_ping(client: HostClient) -> None:
    """Sends a Ping and awaits its result."""
    result = client.enqueue(Ping(), host=HOST).wait(WAIT_S)
    assert isinstance(result, Pong), result


def rq_job(queue: Queue) -> None:
    """Sends a job that does nothing to SimpleWorker and awaits its result."""
    result = queue.enqueue(stock.nothing).latest_result(timeout=WAIT_S)
    assert result is not None
    assert result.type is result.Type.SUCCESSFUL


def bare_job(redis: Redis, id_: str) -> None:
    """Sends an id to the bare loop and awaits its answer."""
    redis.rpush(stock.BARE, id_)
    assert redis.xread({stock.answers_of(id_): "0-0"}, block=WAIT_S * 1000)


def _timed(job: Callable[[], object], times: int) -> list[float]:
    return [timed_ms(job) for _ in range(times)]
