"""Which Firecracker is measured: the operator's, if the environment names it, else the stand-in."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker import simulator

SOURCE: Final = Path(__file__).parents[1] / "tests" / "guest"


@dataclass(frozen=True, slots=True)
class Guest:
    """The programs that run guests, and the guest's kernel."""

    word: str
    firecracker: Path
    jailer: Path
    kernel: bytes
    environment: dict[str, str]


def choose(directory: Path, kernel: Path | None) -> Guest:
    """The guest of this run; what must be built for it goes into `directory`."""
    named = os.environ.get("HOSTD_FIRECRACKER"), os.environ.get("HOSTD_JAILER")
    if all(named) and os.access("/dev/kvm", os.R_OK | os.W_OK):
        firecracker, jailer = (Path(name or "") for name in named)
        image = (kernel or _counter(directory)).read_bytes()
        names = {"HOSTD_VMM__FIRECRACKER": str(firecracker), "HOSTD_VMM__JAILER": str(jailer)}
        return Guest("Firecracker", firecracker, jailer, image, names)
    firecracker, jailer = simulator.install(directory / "simulator")
    simulate = {"HOSTD_VMM__SIMULATE": "true"}
    return Guest("simulated VMM", firecracker, jailer, b"a stand-in needs no kernel", simulate)


def _counter(directory: Path) -> Path:
    """A guest that counts on its serial port, small enough for a software KVM."""
    object_file, kernel = directory / "counter.o", directory / "counter.elf"
    flags = ["-nostdlib", "-z", "max-page-size=4096", "-z", "noexecstack", "--no-warn-rwx-segments"]
    script = SOURCE / "counter.ld"
    subprocess.run(["gcc", "-c", "-o", object_file, SOURCE / "counter.S"], check=True)
    subprocess.run(["ld", *flags, "-T", script, "-o", kernel, object_file], check=True)
    return kernel
