"""The CPU time and memory of a process, as the kernel counts them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def cpu_ms(pid: int) -> float:
    """CPU time of all its threads so far, in milliseconds.

    /proc/<pid>/task/<tid>/schedstat counts nanoseconds; threads that have ended are missing.
    """
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e6


def rss_mib(pid: int) -> float:
    """Resident memory, shared pages included, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has no memory")
