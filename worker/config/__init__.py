"""The configuration of a host, /etc/hostd/hostd.toml: read once, all faults reported together."""

from importlib import metadata

from worker.config.reading import ALIASES, DEFAULT_PATH, build, load
from worker.config.sections import (
    SECTIONS,
    Config,
    MetricsConfig,
    PathsConfig,
    RedisConfig,
    RetryConfig,
    SweepConfig,
    VmmConfig,
    WorkerConfig,
)

__all__ = [
    "ALIASES",
    "DEFAULT_PATH",
    "SECTIONS",
    "Config",
    "MetricsConfig",
    "PathsConfig",
    "RedisConfig",
    "RetryConfig",
    "SweepConfig",
    "VmmConfig",
    "WorkerConfig",
    "build",
    "load",
    "version",
]


def version() -> str:
    """The version of hostd."""
    return metadata.version("hostd")
