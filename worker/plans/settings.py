"""The part of the configuration that plans depend on: plain values, so that plans stay pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from enqueue.requests import InstanceId
from worker.model.layout import Layout
from worker.model.names import METADATA_PORT, InstanceRef, mapper_name


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds, memory in MiB."""

    layout: Layout
    runtime: Path
    supernet: IPv4Network
    uplink: str
    uid_base: int
    overhead_mib: int
    kill_timeout_s: float
    subordinate_files: tuple[Path, ...]  # of subuid(5) and subgid(5)
    guest_wait_s: float = 450.0  # the longest time that one step waits for a guest
    console: bool = False
    wake_across_kernels: bool = False
    metadata_port: int = METADATA_PORT
    devices: Path = Path("/dev/mapper")

    def device(self, ref: InstanceRef) -> Path:
        """The block device of an instance's encrypted disk while it is open."""
        return self.devices / mapper_name(ref)

    def secrets(self, instance_id: InstanceId) -> Path:
        """The file of an instance's secrets disk while its guest runs, on a tmpfs."""
        return self.runtime / "secrets" / f"{instance_id}.ext4"
