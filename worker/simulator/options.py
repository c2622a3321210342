"""The options of the `firecracker` program: those without a value, and the others' defaults."""

from __future__ import annotations

FLAGS = frozenset(
    {
        "no-seccomp",
        "no-api",
        "show-level",
        "show-log-origin",
        "boot-timer",
        "version",
        "snapshot-version",
        "enable-pci",
        "help",
    }
)
SINGLE = {
    "api-sock": "/run/firecracker.socket",
    "id": "anonymous-instance",
    "seccomp-filter": None,
    "start-time-us": None,
    "start-time-cpu-us": None,
    "parent-cpu-time-us": None,
    "config-file": None,
    "metadata": None,
    "log-path": None,
    "level": None,
    "module": None,
    "metrics-path": None,
    "describe-snapshot": None,
    "http-api-max-payload-size": "51200",
    "mmds-size-limit": None,
}
