"""What of the configuration decides plans: plain values, so that plans stay pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from enqueue.requests import InstanceId
from worker.names import METADATA_PORT, Layout


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
    console: bool = False
    metadata_port: int = METADATA_PORT

    def secrets(self, instance_id: InstanceId) -> Path:
        """Where an instance's secrets disk lies while its guest runs: on a tmpfs."""
        return self.runtime / "secrets" / f"{instance_id}.ext4"
