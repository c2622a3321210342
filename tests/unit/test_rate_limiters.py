"""`rate_limiters` of pool.json, and specs that are on disk with and without limiters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.documents import PoolDoc, RateLimiter, RateLimiters, TokenBucket
from enqueue.requests import InstanceId, PoolId, TenantId
from worker.model.names import InstanceRef
from worker.plans.image_manifest import spec_from_builtins, spec_to_builtins
from worker.ports import Drive, VmSpec

BUCKET = {"size": 1_048_576, "refill_time": 100}
LIMITER = RateLimiter(
    bandwidth=TokenBucket(size=1_048_576, refill_time=100), ops=TokenBucket(size=1, refill_time=1)
)


def pool(limits: dict[str, Any]) -> PoolDoc:
    document = {
        "pool_id": "p",
        "tenant_id": "t",
        "instance_resources": {"vcpus": 1, "mem_mib": 1},
        "rate_limiters": limits,
    }
    return msgspec.json.decode(msgspec.json.encode(document), type=PoolDoc)


def spec(limiter: RateLimiter | None) -> VmSpec:
    return VmSpec(
        ref=InstanceRef(TenantId("t"), PoolId("p"), InstanceId("i-00000001")),
        uid=10_003,
        vcpus=1,
        mem_mib=1,
        kernel=Path("/vmlinux"),
        boot_args="",
        drives=(Drive("data", Path("/data"), read_only=False, limiter=limiter),),
        tap="tn0i3",
        mac="02:fc:00:00:00:03",
        rx_limiter=limiter,
    )


def test_limiters_are_read_in_firecrackers_own_form() -> None:
    found = pool({"network_tx": {"bandwidth": {**BUCKET, "one_time_burst": 5}}}).rate_limiters
    burst = TokenBucket(size=1_048_576, refill_time=100, one_time_burst=5)
    assert found == RateLimiters(network_tx=RateLimiter(bandwidth=burst))


def test_a_pool_without_limiters_has_none() -> None:
    assert pool({}).rate_limiters == RateLimiters()


@pytest.mark.parametrize(
    "limits",
    [
        {"network": {"bandwidth": BUCKET}},
        {"drive": {}},
        {"drive": {"bytes": BUCKET}},
        {"drive": {"ops": {"size": 1}}},
        {"drive": {"ops": {"size": 0, "refill_time": 100}}},
        {"drive": {"ops": {"size": 1, "refill_time": 0}}},
        {"drive": {"ops": {"size": 1, "refill_time": (1 << 64) // 1_000_000 + 1}}},
        {"drive": {"ops": {"size": 1, "refill_time": 1, "burst": 1}}},
        {"drive": {"ops": {"size": 1, "refill_time": 1, "one_time_burst": -1}}},
    ],
)
def test_a_limiter_without_a_limit_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        pool(limits)


@pytest.mark.parametrize("limiter", [None, LIMITER])
def test_a_spec_survives_json(limiter: RateLimiter | None) -> None:
    raw = msgspec.json.encode(spec_to_builtins(spec(limiter)))
    assert spec_from_builtins(msgspec.json.decode(raw)) == spec(limiter)


def test_a_spec_written_before_there_were_limiters_has_none() -> None:
    plain = spec_to_builtins(spec(None))
    for key in ("rx_limiter", "tx_limiter"):
        del plain[key]
    del plain["drives"][0]["limiter"]
    assert spec_from_builtins(plain) == spec(None)
