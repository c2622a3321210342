"""Counts round trips with Redis by a proxy on its Unix socket: a burst of any number of commands,
followed by a reply, is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final

from bench.figures import Figure, Target, figure
from bench.latency import hostd_ping
from bench.requests import of
from bench.sandbox import HOST, Sandbox
from bench.scale import Scale
from enqueue.client import HostClient
from enqueue.requests import Ping, StopInstance
from enqueue.results import Done
from tests.fixtures.proxy import Proxy
from worker.demo.documents import write_instance, write_tenant

BUNCH: Final = 10
QUIET_S: Final = 0.03
WAIT_S: Final = 30


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """Round trips per job: the worker's, for a Ping and an instance operation; the client's."""
    write_tenant(box.layout, "counted", 30, kernel=box.guest.kernel)
    stop = of(StopInstance, write_instance(box.layout, "counted", "i-0000c001"))

    def stopped(client: HostClient) -> None:
        result = client.enqueue(stop, host=HOST).wait(WAIT_S)
        assert isinstance(result, Done), result
        assert not result.changed, result

    with _proxy(box, "worker") as proxy, box.worker(proxy.url), box.client() as client:
        for name, job in (("Ping", hostd_ping), ("StopInstance, unchanged", stopped)):
            trips = _counted(proxy, lambda job=job: job(client), scale.bunches)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            yield figure(
                f"{name}, worker's round trips", trips, "a job", target=Target("value", "<=", 4)
            )
    with _proxy(box, "client") as proxy, box.worker(), box.client(proxy.url) as client:
        trips = _counted(proxy, lambda: client.enqueue(Ping(), host=HOST), scale.bunches)
        yield figure(
            "Ping, client's round trips to enqueue", trips, "a job", target=Target("value", "<=", 1)
        )
        trips = _counted(proxy, lambda: hostd_ping(client), scale.bunches)
        yield figure("Ping, client's round trips to enqueue and await", trips, "a job")


def _counted(proxy: Proxy, job: Callable[[], object], bunches: int) -> float:
    """The median of the bunches, so that housekeeping, which hits a few of them, does not count."""
    job()
    counts = []
    for _ in range(bunches):
        before = _quiet_count(proxy)
        for _ in range(BUNCH):
            job()
        counts.append((_quiet_count(proxy) - before) / BUNCH)
    return median(counts)


def _quiet_count(proxy: Proxy) -> int:
    """The count once nothing has arrived for a while: a result is seen before Redis' reply is."""
    seen = -1
    while proxy.round_trips != seen:
        seen = proxy.round_trips
        time.sleep(QUIET_S)
    return seen


@contextmanager
def _proxy(box: Sandbox, name: str) -> Iterator[Proxy]:
    proxy = Proxy(box.base / f"{name}-proxy.sock", server=box.redis_socket)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
