"""Every key of the configuration: its section, type, bounds and default.

docs/config.md is the table of all keys; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from enqueue.requests import LABEL_PATTERN

Seconds = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
HostLabel = Annotated[str, msgspec.Meta(pattern=LABEL_PATTERN)]


class RedisConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[redis]`"""

    url: str = "redis://127.0.0.1:6379/0"
    sentinels: tuple[str, ...] = ()
    sentinel_service: str = "hostd"
    ca: str = ""
    cert: str = ""
    key: str = ""
    password_file: str = ""
    timeout_s: Seconds = 5.0
    allow_no_aof: bool = False


class PathsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[paths]`"""

    state: Path = Path("/var/lib/mvm")
    ledger: Path = Path("/var/lib/hostd/ledger.db")
    runtime: Path = Path("/run/hostd")


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[worker]`"""

    threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = 4
    queue_limit: Count = 10_000
    request_timeout_s: Seconds = 900.0
    lock_timeout_s: Seconds = 30.0
    stop_timeout_s: Seconds = 60.0
    result_ttl_s: Count = 7 * 86_400
    failure_ttl_s: Count = 30 * 86_400
    events_cap: Count = 100_000
    quarantine_cap: Count = 1_000


class RetryConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[retry]`"""

    attempts: Count = 5
    first_s: Seconds = 1.0
    cap_s: Seconds = 60.0


class RecoverConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[recover]`: sleeps that failed as transient are retried when hostd starts."""

    retry_sleeps: bool = True
    retry_age_s: Seconds = 86_400.0
    retry_runs: Count = 5


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[ledger]`; the retention exceeds a request's longest life, 7 days, and the clock skew."""

    retention_days: Annotated[int, msgspec.Meta(ge=8, le=3650)] = 30


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[network]`; an empty uplink means any device that is not a tenant's bridge."""

    supernet: str = "10.240.0.0/12"
    uplink: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.-]{0,15}\Z")] = ""


class CgroupConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[cgroup]`"""

    parent: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z")] = (
        "hostd"
    )


class VmmConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[vmm]`; `simulate` runs the stand-ins instead of the binaries."""

    firecracker: Path = Path("/usr/local/bin/firecracker")
    jailer: Path = Path("/usr/local/bin/jailer")
    firecracker_sha256: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    jailer_sha256: Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    simulate: bool = False
    uid_base: Annotated[int, msgspec.Meta(ge=1000, le=2_000_000_000)] = 10_000
    api_timeout_s: Seconds = 5.0
    spawn_timeout_s: Seconds = 10.0
    kill_timeout_s: Seconds = 10.0
    agent_timeout_s: Seconds = 5.0
    overhead_mib: Count = 64
    console: bool = False
    wake_across_kernels: bool = False


class ImagesConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[images]`"""

    digest_memory: bool = False
    keep_free_mib: Annotated[int, msgspec.Meta(ge=0)] = 256


class SecurityConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[security]`; `insecure` accepts unsigned requests."""

    keys_dir: Path = Path("/etc/hostd/keys")
    insecure: bool = False


class SweepConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[sweep]`; without `remove`, orphans are counted and shown, but not removed."""

    interval_s: Seconds = 60.0
    grace_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    remove: bool = True


class DrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[drain]`; `assumed_mib_s` is the disk's write rate until sleeps have measured it."""

    assumed_mib_s: Annotated[float, msgspec.Meta(gt=0)] = 200.0


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[metrics]`; `listen` is `address:port`, `fd:N` (an inherited socket), or empty: none."""

    listen: Annotated[str, msgspec.Meta(pattern=r"\A(fd:\d+|.+:\d{1,5})?\Z")] = "127.0.0.1:9464"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration."""

    host: HostLabel
    redis: RedisConfig = RedisConfig()
    paths: PathsConfig = PathsConfig()
    worker: WorkerConfig = WorkerConfig()
    retry: RetryConfig = RetryConfig()
    recover: RecoverConfig = RecoverConfig()
    ledger: LedgerConfig = LedgerConfig()
    network: NetworkConfig = NetworkConfig()
    cgroup: CgroupConfig = CgroupConfig()
    vmm: VmmConfig = VmmConfig()
    images: ImagesConfig = ImagesConfig()
    security: SecurityConfig = SecurityConfig()
    sweep: SweepConfig = SweepConfig()
    drain: DrainConfig = DrainConfig()
    metrics: MetricsConfig = MetricsConfig()


SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = {
    field.name: field.type for field in msgspec.structs.fields(Config) if field.name != "host"
}
