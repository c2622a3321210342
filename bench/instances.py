"""The time that hostd adds: StartInstance next to the same VMM started by hand, and to `true`;
SleepInstance next to writing the same bytes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Final

from bench import byhand
from bench.byhand import ByHand
from bench.figures import Figure, Target, figure, timed_ms
from bench.networks import true_ms
from bench.requests import Ended, carried_out, of, step_names
from bench.sandbox import Sandbox
from bench.scale import Scale
from enqueue.client import HostClient
from enqueue.requests import (
    DestroyInstance,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    TenantId,
    WakeInstance,
)
from worker.demo.documents import net, write_instance, write_tenant
from worker.host.firecracker.jail.jail import find_jail
from worker.host.images.generation import MEMORY
from worker.model.names import InstanceRef

TENANT: Final = TenantId("acme")
NET_ID: Final = 10
MEM_MIB: Final = 512
# A VMM's own time varies by 20 ms from launch to launch, so hostd's share shows only over many
# launches; those of small guests take less time.
SMALL: Final = TenantId("small")
SMALL_NET_ID: Final = 11
SMALL_MEM_MIB: Final = 128
_numbers = count(1)


@dataclass(frozen=True, slots=True)
class Life:
    """One instance's requests, and the times to compare them with."""

    start: Ended
    sleep: Ended
    wake: Ended
    destroy: Ended
    by_hand: ByHand
    confined: ByHand
    true_ms: float
    dd_ms: float


def measure(box: Sandbox, scale: Scale) -> Iterator[Figure]:
    """A few instances' lives, one after another, each next to its VMM started by hand."""
    with box.worker(), box.client() as client:
        prepare(box, client)
        prepare(box, client, SMALL, SMALL_NET_ID, SMALL_MEM_MIB)
        first, *large = [_life(box, client) for _ in range(scale.instances + 1)]
        small = [_life(box, client, SMALL) for _ in range(scale.launches)]
    word = box.guest.word
    first_ms = first.start.done.took_ms
    yield figure(
        f"StartInstance, first of a worker ({word}), next to its others", first_ms, "ms",
        baseline=_median(large, lambda life: life.start.done.took_ms),
    )  # fmt: skip
    yield from _start(small, word)
    yield from _sleep(large, word)
    yield from _wake(small, word)
    destroy_ms = _median(small, lambda life: life.destroy.done.took_ms)
    yield figure("DestroyInstance, p50", destroy_ms, "ms")


def prepare(
    box: Sandbox,
    client: HostClient,
    tenant: TenantId = TENANT,
    net_id: int = NET_ID,
    mem_mib: int = MEM_MIB,
) -> None:
    """Writes the tenant's documents, if missing, and sets up its network."""
    if not box.layout.tenant(tenant).exists():
        write_tenant(box.layout, tenant, net_id, kernel=box.guest.kernel, mem_mib=mem_mib)
    carried_out(client, SetupNetwork(tenant_id=tenant, net=net(net_id)))


def new_instance(box: Sandbox, tenant: TenantId = TENANT) -> InstanceRef:
    """A new instance, not started."""
    return write_instance(box.layout, tenant, f"i-{next(_numbers):08x}")


def _life(box: Sandbox, client: HostClient, tenant: TenantId = TENANT) -> Life:
    ref = new_instance(box, tenant)
    start = carried_out(client, of(StartInstance, ref))
    jail = find_jail(box.layout.jail_base(ref), ref.instance_id)
    spec = None if jail is None else jail.spec()
    assert spec is not None
    kept = box.base / "kept"
    kept.mkdir()
    spec = byhand.with_copied_disks(spec, kept)
    sleep = carried_out(client, of(SleepInstance, ref, force=True))
    image = kept / "image"
    image.hardlink_to(box.layout.images(ref) / "sleep" / MEMORY)
    wake = carried_out(client, of(WakeInstance, ref))
    destroy = carried_out(client, of(DestroyInstance, ref, wipe_volumes=True))
    by_hand, confined = (byhand.run(box, spec, confined=confined) for confined in (False, True))
    dd_ms = _dd_ms(image, kept / "dd")
    shutil.rmtree(kept)
    return Life(start, sleep, wake, destroy, by_hand, confined, true_ms(), dd_ms)


def _dd_ms(image: Path, target: Path) -> float:
    """Milliseconds that dd needs to write and fsync the same bytes, read from the page cache."""
    command = ["dd", f"if={image}", f"of={target}", "bs=1M"]
    quiet = ["conv=fsync", "status=none"]
    took_ms = timed_ms(lambda: subprocess.run([*command, *quiet], check=True))
    target.unlink()
    return took_ms


def _median(lives: Sequence[Life], of_one: Callable[[Life], float]) -> float:
    return median(of_one(life) for life in lives)


def _start(lives: Sequence[Life], word: str) -> Iterator[Figure]:
    yield figure(
        f"StartInstance, p50, next to the {word} by hand",
        _median(lives, lambda life: life.start.done.took_ms),
        "ms",
        baseline=_median(lives, lambda life: life.by_hand.start_ms),
    )
    yield figure(
        f"StartInstance, hostd's own time next to the same launch ({word}), and to `true`",
        _median(lives, lambda life: life.start.done.took_ms - life.confined.start_ms),
        "ms",
        baseline=_median(lives, lambda life: life.true_ms),
        target=Target("value", "<=", 25),
    )
    yield figure(
        f"StartInstance, hostd's own time next to a launch in no control group ({word})",
        _median(lives, lambda life: life.start.done.took_ms - life.by_hand.start_ms),
        "ms",
    )
    waited_ms = _median(lives, lambda life: life.start.waited_ms)
    yield figure("StartInstance, p50 as the client sees it", waited_ms, "ms")
    by_hand = {
        "vmm_spawned": _median(lives, lambda life: life.confined.spawn_ms),
        "guest_booted": _median(lives, lambda life: life.confined.boot_ms),
    }
    yield from _steps("StartInstance", [life.start for life in lives], by_hand)


def _sleep(lives: Sequence[Life], word: str) -> Iterator[Figure]:
    took_ms = _median(lives, lambda life: life.sleep.done.took_ms)
    for against, baseline_ms in (
        ("dd of the same bytes", _median(lives, lambda life: life.dd_ms)),
        (f"the {word}'s snapshot by hand", _median(lives, lambda life: life.by_hand.snapshot_ms)),
        ("the same in a control group", _median(lives, lambda life: life.confined.snapshot_ms)),
    ):
        target = Target("ratio", "<=", 1.15) if against.startswith("dd") else None
        name = f"SleepInstance of {MEM_MIB} MiB, p50, next to {against}"
        yield figure(name, took_ms, "ms", baseline=baseline_ms, target=target)
    yield from _steps("SleepInstance", [life.sleep for life in lives], {})


def _wake(lives: Sequence[Life], word: str) -> Iterator[Figure]:
    wake_ms = _median(lives, lambda life: life.wake.done.took_ms)
    by_hand_ms = _median(lives, lambda life: life.by_hand.wake_ms)
    yield figure(
        f"WakeInstance, p50, next to the {word} by hand", wake_ms, "ms", baseline=by_hand_ms
    )
    yield figure(
        f"WakeInstance, hostd's own time next to the same launch ({word})",
        _median(lives, lambda life: life.wake.done.took_ms - life.confined.wake_ms),
        "ms",
        target=Target("value", "<=", 25),
    )
    by_hand = {
        "vmm_spawned": _median(lives, lambda life: life.confined.respawn_ms),
        "guest_loaded": _median(lives, lambda life: life.confined.load_ms),
    }
    yield from _steps("WakeInstance", [life.wake for life in lives], by_hand)


def _steps(op: str, ended: list[Ended], by_hand: dict[str, float]) -> Iterator[Figure]:
    """The steps of a millisecond and more, and the time between steps."""
    for name in step_names(ended):
        took_ms = median(one.step_ms(name) for one in ended)
        if took_ms >= 1 or name in by_hand:
            next_to = ", next to by hand in a control group" if name in by_hand else ""
            baseline = by_hand.get(name)
            yield figure(f"{op}, step {name}{next_to}", took_ms, "ms", baseline=baseline)
    between = [one.done.took_ms - sum(step.ms for step in one.done.steps) for one in ended]
    yield figure(f"{op}, outside its steps", median(between), "ms")
