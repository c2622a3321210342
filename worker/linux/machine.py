"""What identifies this machine, its processor (proc_cpuinfo(5)) and this boot."""

from __future__ import annotations

import ctypes
import hashlib
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from worker.linux import libc

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MACHINE_ID = Path("/etc/machine-id")
TIME_ERROR = 5
TIMEX_BYTES = 512  # struct timex has 208 on 64-bit Linux
CPUINFO: Final = Path("/proc/cpuinfo")

# On x86_64, then on aarch64.
_VENDOR: Final = ("vendor_id", "CPU implementer")
_FAMILY: Final = ("cpu family", "CPU architecture")
_MODEL: Final = ("model", "CPU part")
_STEPPING: Final = ("stepping", "CPU variant")


def boot_id() -> str:
    """The id of this boot (proc_sys_kernel(5))."""
    return _once(BOOT_ID)


@cache
def _once(path: Path) -> str:
    # No process outlives its boot.
    return path.read_text().strip()


def machine_id() -> str:
    """The machine's id (machine-id(5)); the boot's if the machine has none."""
    try:
        return MACHINE_ID.read_text().strip() or boot_id()
    except OSError:
        return boot_id()


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
    return int(libc.LIBRARY.adjtimex(timex)) not in (-1, TIME_ERROR)


@dataclass(frozen=True, slots=True)
class Processor:
    """The first processor; empty strings for what the kernel does not report."""

    vendor: str
    family: str
    model: str
    stepping: str


@cache
def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The machine's processor."""
    first = cpuinfo.read_text().strip().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}

    def one(names: tuple[str, ...]) -> str:
        return next((fields[name] for name in names if name in fields), "")

    return Processor(one(_VENDOR), one(_FAMILY), one(_MODEL), one(_STEPPING))
