"""The Firecracker to measure: the operator's if the environment names it, else the stand-in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
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
    settings: Mapping[str, object]  # of hostd's section [vmm]


def choose(directory: Path, kernel: Path | None) -> Guest:
    """The guest of this run; builds into `directory` what it needs."""
    named = os.environ.get("HOSTD_FIRECRACKER"), os.environ.get("HOSTD_JAILER")
    if all(named) and os.access("/dev/kvm", os.R_OK | os.W_OK):
        firecracker, jailer = (Path(name or "") for name in named)
        image = (kernel or _counter(directory)).read_bytes()
        settings = {"firecracker": str(firecracker), "jailer": str(jailer)}
        return Guest("Firecracker", firecracker, jailer, image, settings)
    firecracker, jailer = simulator.install(directory / "simulator")
    kernel_image = b"a stand-in needs no kernel"
    return Guest("simulated VMM", firecracker, jailer, kernel_image, {"simulate": True})


def _counter(directory: Path) -> Path:
    """A guest that counts on its serial port, small enough for a software KVM."""
    object_file, kernel = directory / "counter.o", directory / "counter.elf"
    flags = ["-nostdlib", "-z", "max-page-size=4096", "-z", "noexecstack", "--no-warn-rwx-segments"]
    script = SOURCE / "counter.ld"
    subprocess.run(["gcc", "-c", "-o", object_file, SOURCE / "counter.S"], check=True)
    subprocess.run(["ld", *flags, "-T", script, "-o", kernel, object_file], check=True)
    return kernel
