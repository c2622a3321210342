"""The memory and CPU time of an idle worker, and how soon it is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

from bench.figures import Figure, Target, figure
from bench.instances import new_instance, prepare
from bench.latency import hostd_ping
from bench.requests import carried_out, of
from bench.sandbox import Sandbox
from bench.scale import Scale
from bench.usage import cpu_ms, rss_mib
from enqueue.requests import DestroyInstance, SleepInstance, StartInstance, WakeInstance


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """Time until ready; then, with a guest running, memory and CPU of an idle worker."""
    ready_s = [_start_and_stop(box) for _ in range(scale.starts)]
    yield figure("hostd run, exec to ready", median(ready_s), "s", target=Target("value", "<=", 1))
    with box.worker(), box.client() as client:
        pid = box.pid("worker")
        fresh_mib = rss_mib(pid)
        prepare(box, client)
        ref = new_instance(box)
        for kind in (StartInstance, SleepInstance, WakeInstance):
            carried_out(client, of(kind, ref))
        for _ in range(100):
            hostd_ping(client)
        time.sleep(1)
        before_ms = cpu_ms(pid)
        time.sleep(scale.rest_s)
        busy_ms = cpu_ms(pid) - before_ms
        used_mib = rss_mib(pid)
        carried_out(client, of(DestroyInstance, ref))
    yield figure("hostd run, memory once ready", fresh_mib, "MiB")
    yield figure(
        "hostd run, memory after Start, Sleep, Wake and 100 Pings", used_mib, "MiB",
        target=Target("value", "<=", 70),
    )  # fmt: skip
    yield figure(
        "hostd run, CPU at rest", busy_ms / (scale.rest_s * 1000) * 100, "% of a core",
        target=Target("value", "<=", 0.2),
    )  # fmt: skip


def _start_and_stop(box: Sandbox) -> float:
    ready_s = box.start_worker()
    box.end("worker")
    return ready_s
