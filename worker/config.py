"""The configuration of a host: `/etc/hostd/hostd.toml`, overridden by `HOSTD_<SECTION>__<KEY>`.

It is read once, and every fault is reported together, with its key and value.  docs/config.md is
the table of all keys; a test keeps the two in step.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from enqueue.requests import LABEL_PATTERN
from worker.errors import ConfigError

DEFAULT_PATH: Final = Path("/etc/hostd/hostd.toml")
ALIASES: Final = {
    "HOSTD_FIRECRACKER": ("vmm", "firecracker"),
    "HOSTD_JAILER": ("vmm", "jailer"),
}

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
    """`[recover]`: sleeps that failed as transient, tried again when hostd starts."""

    retry_sleeps: bool = True
    retry_age_s: Seconds = 86_400.0
    retry_runs: Count = 5


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[ledger]`; the retention exceeds a request's longest life, 7 days, and the clock skew."""

    retention_days: Annotated[int, msgspec.Meta(ge=8, le=3650)] = 30


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[network]`; an empty uplink means any device that is no tenant's bridge."""

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
    """`[sweep]`; without `remove`, what is left over is counted and shown, and stays."""

    interval_s: Seconds = 60.0
    grace_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    remove: bool = True


class DrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[drain]`; `assumed_mib_s` is what the disk takes in, until sleeps have shown it."""

    assumed_mib_s: Annotated[float, msgspec.Meta(gt=0)] = 200.0


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`[metrics]`; `listen` is `address:port`, `fd:N` (an inherited socket), or empty for none."""

    listen: Annotated[str, msgspec.Meta(pattern=r"\A(fd:\d+|.+:\d{1,5})?\Z")] = "127.0.0.1:9464"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

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
    "redis": RedisConfig,
    "paths": PathsConfig,
    "worker": WorkerConfig,
    "retry": RetryConfig,
    "recover": RecoverConfig,
    "ledger": LedgerConfig,
    "network": NetworkConfig,
    "cgroup": CgroupConfig,
    "vmm": VmmConfig,
    "images": ImagesConfig,
    "security": SecurityConfig,
    "sweep": SweepConfig,
    "drain": DrainConfig,
    "metrics": MetricsConfig,
}


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `path` (the default file may be missing) and the environment.

    Raises:
        ConfigError: the file cannot be read, or any key is unknown or wrong; all are listed.
    """
    return build(_file(path), environ)


def _file(path: Path | None) -> dict[str, Any]:
    if path is None and not DEFAULT_PATH.exists():
        return {}
    source = path or DEFAULT_PATH
    try:
        return tomllib.loads(source.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {source}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is no TOML: {error}") from error


def build(document: Mapping[str, Any], environ: Mapping[str, str]) -> Config:
    """The configuration of a parsed document and an environment.

    Raises:
        ConfigError: every fault, one a line.
    """
    faults: list[str] = []
    given = _merged(document, environ, faults)
    values: dict[str, Any] = {}
    host = given.pop("", {}).get("host", "")
    try:
        values["host"] = msgspec.convert(host, HostLabel)
    except msgspec.ValidationError:
        faults.append(f"host = {host!r}: give this host a name of a-z, 0-9 and '-'")
    for section, struct in SECTIONS.items():
        values[section] = _section(section, struct, given.get(section, {}), faults)
    if not faults:
        faults.extend(_contradictions(values))
    if faults:
        raise ConfigError("\n".join(faults))
    return Config(**values)


def _merged(
    document: Mapping[str, Any], environ: Mapping[str, str], faults: list[str]
) -> dict[str, dict[str, Any]]:
    """Values by section ("" for the top level); what the environment says wins."""
    given: dict[str, dict[str, Any]] = {"": {}}
    for key, value in document.items():
        if key in SECTIONS and isinstance(value, dict):
            given[key] = dict(value)
        elif key == "host":
            given[""][key] = value
        else:
            faults.append(f"{key}: unknown; sections are {', '.join(SECTIONS)}, and host")
    for name, text in environ.items():
        section, key = _variable(name)
        if key == "host" and not section:
            given[""]["host"] = text
        elif section in SECTIONS:
            given.setdefault(section, {})[key] = _typed(section, key, text)
        elif section:
            faults.append(f"{name}: unknown section {section!r}")
    return given


def _variable(name: str) -> tuple[str, str]:
    """(section, key) of an environment variable; ("", "") if it is none of ours."""
    if name in ALIASES:
        return ALIASES[name]
    if name == "HOSTD_HOST":
        return "", "host"
    if not name.startswith("HOSTD_") or "__" not in name:
        return "", ""
    section, _, key = name.removeprefix("HOSTD_").lower().partition("__")
    return section, key


def _typed(section: str, key: str, text: str) -> Any:
    """`text` as the type of the key: TOML where it parses as such, a plain string otherwise."""
    hint = SECTIONS[section].__annotations__.get(key, "str")
    if hint in ("str", "Path") or "pattern" in hint:
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _section(
    section: str, struct: type[msgspec.Struct], given: Mapping[str, Any], faults: list[str]
) -> msgspec.Struct:
    known = {field.name: field for field in msgspec.structs.fields(struct)}
    good: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            faults.append(f"{section}.{key}: unknown; known are {', '.join(known)}")
            continue
        try:
            good[key] = msgspec.convert(value, known[key].type, dec_hook=_path)
        except (msgspec.ValidationError, ValueError) as error:
            faults.append(f"{section}.{key} = {value!r}: {error}")
    return struct(**good)


def _path(kind: type, value: Any) -> Path:
    if kind is not Path or not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return Path(value)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults that no single key shows."""
    faults = []
    try:
        supernet = IPv4Network(values["network"].supernet)
        if not supernet.is_private or supernet.prefixlen > 24:
            faults.append(f"network.supernet = {supernet}: must be private and hold a /24")
    except ValueError as error:
        faults.append(f"network.supernet: {error}")
    if values["retry"].first_s > values["retry"].cap_s:
        faults.append("retry.first_s is larger than retry.cap_s")
    return faults
