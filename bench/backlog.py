"""How fast a backlog is processed: Pings next to jobs that do nothing in RQ's SimpleWorker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from redis import Redis
from rq import Queue
from rq.registry import FinishedJobRegistry

from bench import stock
from bench.figures import Figure, Target, compared, figure, in_turns, overall
from bench.latency import hostd_ping, rq_job, stock_workers
from bench.sandbox import HOST, Sandbox
from bench.scale import Scale
from bench.usage import cpu_ms
from enqueue.client import HostClient
from enqueue.keys import HostKeys
from enqueue.requests import Ping

WAIT_S: Final = 120
POLL_S: Final = 0.004


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """Jobs per second, and the worker's CPU time per job."""
    with box.client() as client, box.redis() as redis, box.worker(), stock_workers(box):
        queue = Queue(stock.QUEUE, connection=redis)
        hostd_ping(client)
        rq_job(queue)
        cpu: dict[str, list[float]] = {"worker": [], "rq": []}

        def drained(worker: str, registry: str, enqueue: Callable[[], object]) -> list[float]:
            before = cpu_ms(box.pid(worker))
            rate = _drained(box, worker, redis, registry, scale.backlog, enqueue)
            cpu[worker].append((cpu_ms(box.pid(worker)) - before) / scale.backlog)
            return [rate]

        finished = HostKeys(HOST).finished
        stock_finished = FinishedJobRegistry(queue=queue).key
        samples = in_turns(
            scale.backlog_rounds,
            {
                "hostd": lambda: drained("worker", finished, lambda: _pings(client, scale.backlog)),
                "rq": lambda: drained("rq", stock_finished, lambda: _jobs(queue, scale.backlog)),
            },
        )
    yield compared(
        f"Ping, backlog of {scale.backlog}, next to RQ SimpleWorker", samples, "jobs/s",
        subject="hostd", against="rq", target=Target("ratio", ">=", 5),
    )  # fmt: skip
    ours, theirs = overall([cpu["worker"]]), overall([cpu["rq"]])
    yield figure("Ping, worker's CPU on a backlog, next to RQ", ours, "ms/job", baseline=theirs)


def _pings(client: HostClient, number: int) -> None:
    client.enqueue_many([Ping()] * number, host=HOST)


def _jobs(queue: Queue, number: int) -> None:
    queue.enqueue_many([Queue.prepare_data(stock.nothing) for _ in range(number)])


def _drained(
    box: Sandbox,
    worker: str,
    redis: Redis,
    registry: str,
    number: int,
    enqueue: Callable[[], object],
) -> float:
    """Jobs per second, from the worker's start to the last result."""
    with box.stopped(worker):
        wanted = redis.zcard(registry) + number
        enqueue()
        began = time.perf_counter()
    while redis.zcard(registry) < wanted:
        assert time.perf_counter() < began + WAIT_S, box.log(worker)
        time.sleep(POLL_S)
    return number / (time.perf_counter() - began)
