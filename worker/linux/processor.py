"""Which processor this is, from /proc/cpuinfo (proc_cpuinfo(5))."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

CPUINFO: Final = Path("/proc/cpuinfo")

# On x86_64, then on aarch64.
_VENDOR: Final = ("vendor_id", "CPU implementer")
_FAMILY: Final = ("cpu family", "CPU architecture")
_MODEL: Final = ("model", "CPU part")
_STEPPING: Final = ("stepping", "CPU variant")


@dataclass(frozen=True, slots=True)
class Processor:
    """The first processor; empty strings for what the kernel does not say."""

    vendor: str
    family: str
    model: str
    stepping: str


@cache
def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The machine's processor, which stays the same as long as a process lives."""
    first = cpuinfo.read_text().strip().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    said = {key.strip(): value.strip() for key, _, value in pairs}

    def one(names: tuple[str, ...]) -> str:
        return next((said[name] for name in names if name in said), "")

    return Processor(one(_VENDOR), one(_FAMILY), one(_MODEL), one(_STEPPING))
