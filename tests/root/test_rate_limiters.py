"""A pool's rate limiters reach the VMM, and a wake brings them back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.documents import RateLimiter, TokenBucket
from tests.contract.test_vmm import slept
from tests.fixtures.vmm import Rig
from worker.host.firecracker.api.client import Api

pytestmark = pytest.mark.root

RX = RateLimiter(bandwidth=TokenBucket(size=1 << 20, refill_time=100))
TX = RateLimiter(
    bandwidth=TokenBucket(size=1 << 19, refill_time=200, one_time_burst=1 << 22),
    ops=TokenBucket(size=1000, refill_time=1000),
)
DISK = RateLimiter(ops=TokenBucket(size=500, refill_time=1000))


@pytest.fixture
def limited(driven_vmm: Rig) -> Rig:
    """A machine whose guest has limiters at its network card and its data disk."""
    drives = tuple(
        replace(drive, limiter=DISK) if drive.id == "data" else drive
        for drive in driven_vmm.spec.drives
    )
    return driven_vmm.with_spec(drives=drives, rx_limiter=RX, tx_limiter=TX)


def plain(value: Any) -> Any:
    """JSON without the keys that are null: Firecracker tells them, hostd leaves them out."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None}
    return value


def limiters(rig: Rig) -> dict[str, Any]:
    """What the VMM says of its limiters."""
    with Api(rig.jail().root, pid=rig.pid(), timeout_s=5) as api:
        told = api._call("GET", "/vm/config", None, 5)
    (card,) = told["network-interfaces"]
    found = {"rx": card["rx_rate_limiter"], "tx": card["tx_rate_limiter"]}
    found |= {drive["drive_id"]: drive["rate_limiter"] for drive in told["drives"]}
    return {name: plain(limiter) for name, limiter in found.items() if limiter is not None}


EXPECTED = {
    "rx": msgspec.to_builtins(RX),
    "tx": msgspec.to_builtins(TX),
    "data": msgspec.to_builtins(DISK),
}


def test_a_booted_guest_has_the_limiters_of_its_spec(limited: Rig) -> None:
    limited.up()
    assert limiters(limited) == EXPECTED
    assert limited.restarted().spec(limited.ref) == limited.spec


def test_a_guest_without_limiters_has_none(driven_vmm: Rig) -> None:
    driven_vmm.up()
    assert limiters(driven_vmm) == {}


def test_a_woken_guest_has_the_limiters_that_it_slept_with(limited: Rig, tmp_path: Path) -> None:
    image = slept(limited, tmp_path / "image")
    limited.load(image)
    assert limiters(limited) == EXPECTED
