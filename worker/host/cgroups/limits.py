"""How v1 and v2 write a group's limits (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst).

Each controller's limits are written to, and read back from, its directory of the group.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.linux import procfs as small_files

PERIOD_US: Final = 100_000
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def rounded(memory_bytes: int) -> int:
    """The limit, rounded down to pages as the kernel does."""
    return memory_bytes - memory_bytes % PAGE_BYTES


def put(directory: Path, controller: str, value: int, *, v2: bool) -> None:
    """Limits the group to `value` (bytes, microseconds per 100 ms, or tasks).

    Raises:
        Broken: `cgroup`, the kernel refused it; facts name the file.
    """
    match controller, v2:
        case "memory", True:
            _put_memory_v2(directory, value)
        case "memory", False:
            _put_memory_v1(directory, value)
        case "cpu", True:
            write(directory / "cpu.max", f"{value} {PERIOD_US}")
        case "cpu", False:
            write(directory / "cpu.cfs_period_us", str(PERIOD_US))
            write(directory / "cpu.cfs_quota_us", str(value))
        case _:
            write(directory / "pids.max", str(value))


def get(directory: Path, controller: str, *, v2: bool) -> int | None:
    """The limit in force; None if any part of it is missing."""
    match controller, v2:
        case "memory", True:
            return _memory_v2(directory)
        case "memory", False:
            return _memory_v1(directory)
        case "cpu", True:
            quota, _, period = (read(directory / "cpu.max") or "").partition(" ")
            return _number(quota) if period == str(PERIOD_US) else None
        case "cpu", False:
            period = read(directory / "cpu.cfs_period_us") or ""
            return _number(read(directory / "cpu.cfs_quota_us")) if _is(period, PERIOD_US) else None
        case _:
            return _number(read(directory / "pids.max"))


def write(file: Path, text: str) -> None:
    """Writes `text`.

    Raises:
        Broken: `cgroup`, the kernel refused it.
    """
    try:
        small_files.write(file, text.encode())
    except OSError as error:
        raise refused(file, text, error) from error


def read(file: Path) -> str | None:
    """The text of the file; None if it or its group is gone."""
    try:
        return small_files.text(file)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):  # ENODEV: removed while it was open
            return None
        raise


def refused(file: Path, text: str, error: OSError) -> Broken:
    """The error for a write that the kernel refused."""
    return Broken(
        "cgroup",
        f"the kernel refused {text!r}: {error.strerror}",
        hint="`hostd doctor` shows what is missing in this host's control groups",
        file=file,
    )


def _put_memory_v2(directory: Path, value: int) -> None:
    write(directory / "memory.max", str(value))
    for name, text in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
        if (directory / name).exists():  # no swap in the kernel, or Linux < 4.19
            write(directory / name, text)


def _memory_v2(directory: Path) -> int | None:
    swap, group = read(directory / "memory.swap.max"), read(directory / "memory.oom.group")
    if swap not in (None, "0") or group not in (None, "1"):
        return None
    return _number(read(directory / "memory.max"))


def _put_memory_v1(directory: Path, value: int) -> None:
    both = directory / "memory.memsw.limit_in_bytes"
    # The limit of memory and swap may never be below that of memory: lifted first, set last.
    if both.exists():
        write(both, "-1")
    write(directory / "memory.limit_in_bytes", str(value))
    if both.exists():
        write(both, str(value))


def _memory_v1(directory: Path) -> int | None:
    limit = read(directory / "memory.limit_in_bytes")
    if read(directory / "memory.memsw.limit_in_bytes") not in (None, limit):
        return None
    number = _number(limit)
    # "Unlimited" reads as the largest page count there is (mm/page_counter.c).
    return number if number is not None and number < rounded(2**63 - 1) else None


def _is(text: str, number: int) -> bool:
    return text == str(number)


def _number(text: str | None) -> int | None:
    """`text` as a limit; None for "max", -1 and nothing."""
    return int(text) if text and text.isdecimal() else None
