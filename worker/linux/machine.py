"""What identifies this machine and this boot."""

from __future__ import annotations

import ctypes
import hashlib
import time
from functools import cache
from importlib import metadata
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")
TIME_ERROR = 5
TIMEX_BYTES = 512  # struct timex has 208 on 64-bit Linux


def boot_id() -> str:
    """A new one with each boot: proc_sys_kernel(5)."""
    return _once(BOOT_ID)


@cache
def _once(path: Path) -> str:
    # No process outlives its boot.
    return path.read_text().strip()


def machine_id() -> str:
    """The machine's, or the boot's where the machine has none: machine-id(5)."""
    try:
        return MACHINE_ID.read_text().strip() or boot_id()
    except OSError:
        return boot_id()


def version() -> str:
    """hostd's own version."""
    return metadata.version("hostd")


def sha256(path: Path) -> str:
    """The digest of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def uptime_s() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def clock_is_synchronized() -> bool:
    """Whether the kernel's clock is disciplined: adjtimex(2) does not answer TIME_ERROR."""
    timex = ctypes.create_string_buffer(TIMEX_BYTES)  # modes = 0: nothing is set
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(timex)) not in (-1, TIME_ERROR)
