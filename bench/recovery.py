"""How soon a killed hostd works again, with a backlog before it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Final

from redis import Redis

from bench.figures import Figure, Target, figure
from bench.sandbox import HOST, Sandbox
from bench.scale import Scale
from enqueue.client import HostClient
from enqueue.keys import HostKeys
from enqueue.requests import SetupNetwork, TenantId
from worker.demo.documents import net, write_tenant

TENANT: Final = "recovery"
NET_ID: Final = 200
WAIT_S: Final = 120
POLL_S: Final = 0.002


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """From exec to the first result, with requests that were in flight and such as were queued."""
    write_tenant(box.layout, TENANT, NET_ID, kernel=b"nothing boots")
    with box.client() as client, box.redis() as redis:
        rounds = [_round(box, client, redis, scale.backlog) for _ in range(scale.backlog_rounds)]
    yield figure(
        f"hostd run after SIGKILL, {scale.backlog} requests in flight or queued, exec to the "
        "first result",
        median(first_s for first_s, _ in rounds), "s", target=Target("value", "<=", 1),
    )  # fmt: skip
    yield figure("the same, to the last result", median(last_s for _, last_s in rounds), "s")


def _round(box: Sandbox, client: HostClient, redis: Redis, number: int) -> tuple[float, float]:
    """Seconds to the first result and to the last; half of the requests had been in flight."""
    request = SetupNetwork(tenant_id=TenantId(TENANT), net=net(NET_ID))
    half = number // 2
    box.start_worker()
    before = _ended(redis)
    client.enqueue_many([request] * half, host=HOST)
    _at_least(before + 1, redis, box)
    os.kill(box.pid("worker"), signal.SIGKILL)
    box.end("worker")
    told = _ended(redis)
    client.enqueue_many([request] * (number - half + told - before), host=HOST)
    began = time.perf_counter()
    with ThreadPoolExecutor() as watching:  # the worker dies with the thread that has started it
        first = watching.submit(_at_least, told + 1, redis, box)
        box.start_worker()
        first_s = first.result() - began
    last_s = _at_least(told + number, redis, box) - began
    box.end("worker")
    return first_s, last_s


def _ended(redis: Redis) -> int:
    return int(redis.zcard(HostKeys(HOST).finished))


def _at_least(count: int, redis: Redis, box: Sandbox) -> float:
    """When so many requests had ended, by the performance counter."""
    deadline = time.monotonic() + WAIT_S
    while _ended(redis) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WAIT_S} s:\n{box.log('worker')}")
        time.sleep(POLL_S)
    return time.perf_counter()
