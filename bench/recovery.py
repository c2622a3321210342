"""How soon a killed hostd works again, with a backlog in its queue."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
POLL_S: Final = 0.004


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """Times from exec to the first attempt, the first result and the last; half were in flight."""
    write_tenant(box.layout, TENANT, NET_ID, kernel=b"nothing boots")
    with box.client() as client, box.redis() as redis:
        rounds = [_round(box, client, redis, scale.backlog) for _ in range(scale.backlog_rounds)]
    running_s, first_s, last_s = (median(times) for times in zip(*rounds, strict=True))
    what = f"hostd run after SIGKILL, {scale.backlog} requests in flight or queued"
    yield figure(
        f"{what}, exec to the first job running", running_s, "s", target=Target("value", "<=", 1)
    )
    yield figure(f"{what}, exec to the first result", first_s, "s")
    yield figure(f"{what}, exec to the last result", last_s, "s")


def _round(
    box: Sandbox, client: HostClient, redis: Redis, number: int
) -> tuple[float, float, float]:
    """Seconds to the first attempt, to the first result, to the last result."""
    request = SetupNetwork(tenant_id=TenantId(TENANT), net=net(NET_ID))
    half = number // 2

    def ended() -> int:
        return int(redis.zcard(HostKeys(HOST).finished))

    box.start_worker()
    before = ended()
    client.enqueue_many([request] * half, host=HOST)
    _at_least(before + 1, ended, box)
    box.kill("worker")
    told = ended()
    client.enqueue_many([request] * (number - half + told - before), host=HOST)
    began = time.perf_counter()
    with ThreadPoolExecutor() as watching:  # the worker dies with the thread that started it
        attempts = _attempts(box)
        running = watching.submit(_at_least, attempts + 1, lambda: _attempts(box), box)
        first = watching.submit(_at_least, told + 1, ended, box)
        box.start_worker()
    last = _at_least(told + number, ended, box)
    box.end("worker")
    return running.result() - began, first.result() - began, last - began


def _attempts(box: Sandbox) -> int:
    """The number of attempts in the ledger."""
    uri = f"file:{box.base / 'ledger.db'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=10)) as ledger:
        return int(ledger.execute("SELECT SUM(attempts) FROM requests").fetchone()[0])


def _at_least(wanted: int, count: Callable[[], int], box: Sandbox) -> float:
    """The performance counter when `count()` has reached `wanted`."""
    deadline = time.monotonic() + WAIT_S
    while count() < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {WAIT_S} s:\n{box.log('worker')}")
        time.sleep(POLL_S)
    return time.perf_counter()
