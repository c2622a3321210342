"""What of the configuration decides plans: plain values, so that plans stay pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from enqueue.requests import InstanceId
from worker.linux.subids import SUBORDINATE_FILES
from worker.model.names import METADATA_PORT, InstanceRef, Layout, mapper_name


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
    guest_wait_s: float = 450.0  # the longest that one step waits for a guest
    console: bool = False
    wake_across_kernels: bool = False
    metadata_port: int = METADATA_PORT
    devices: Path = Path("/dev/mapper")
    subordinate_files: tuple[Path, ...] = SUBORDINATE_FILES

    def device(self, ref: InstanceRef) -> Path:
        """Where an instance's encrypted disk is, opened, as a block device."""
        return self.devices / mapper_name(ref)

    def secrets(self, instance_id: InstanceId) -> Path:
        """Where an instance's secrets disk lies while its guest runs: on a tmpfs."""
        return self.runtime / "secrets" / f"{instance_id}.ext4"
