"""How long a tenant's network takes, next to starting the smallest program."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from statistics import median

from bench.figures import Figure, Target, figure, timed_ms
from bench.requests import carried_out, step_names
from bench.sandbox import Sandbox
from bench.scale import Scale
from enqueue.requests import SetupNetwork, TeardownNetwork, TenantId
from worker.demo.documents import net, write_tenant


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """SetupNetwork and TeardownNetwork of fresh tenants, and `true` in turns with them."""
    ups, downs, trues = [], [], []
    with box.worker(), box.client() as client:
        for number in range(scale.networks + 1):
            net_id = 100 + number
            tenant = TenantId(f"net-{net_id}")
            write_tenant(box.layout, tenant, net_id, kernel=box.guest.kernel)
            ups.append(carried_out(client, SetupNetwork(tenant_id=tenant, net=net(net_id))))
            trues.append(true_ms())
            downs.append(carried_out(client, TeardownNetwork(tenant_id=tenant, net=net(net_id))))
    del ups[0], downs[0], trues[0]  # the first one makes hostd's nft table
    program_ms = median(trues)
    yield figure(
        "SetupNetwork, p50, next to starting `true`",
        median(up.done.took_ms for up in ups),
        "ms",
        baseline=program_ms,
        target=Target("value", "<=", 10),
    )
    yield figure(
        "SetupNetwork, p50 as the client sees it", median(up.waited_ms for up in ups), "ms",
        baseline=program_ms,
    )  # fmt: skip
    for name in step_names(ups):
        yield figure(f"SetupNetwork, step {name}", median(up.step_ms(name) for up in ups), "ms")
    yield figure(
        "TeardownNetwork, p50, next to starting `true`",
        median(down.done.took_ms for down in downs),
        "ms",
        baseline=program_ms,
    )


def true_ms() -> float:
    """Milliseconds to run `true`."""
    return timed_ms(lambda: subprocess.run(["true"], check=True))
