"""What a machine is, as far as a sleeping guest's saved state depends on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Platform:
    """Program, processor and kernel; every field is as the kernel or the program spells it.

    On aarch64 the processor's implementer, architecture, part and variant stand for vendor,
    family, model and stepping.
    """

    firecracker_version: str
    firecracker_sha256: str
    snapshot_format: str
    architecture: str
    cpu_vendor: str
    cpu_family: str
    cpu_model: str
    cpu_stepping: str
    kernel: str
    boot_id: str
