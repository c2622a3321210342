"""Steps over an instance's disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import Conflict
from worker.names import InstanceRef
from worker.ports import DiskSpec, Host


@dataclass(frozen=True, slots=True)
class DataDiskPresent:
    """The instance's data disk is a whole ext4 image.  Made once, never undone, never remade."""

    spec: DiskSpec
    name: str = "data_disk_present"

    def done(self, host: Host) -> bool:
        return host.disks.label(self.spec.path) == self.spec.label

    def apply(self, host: Host) -> None:
        if host.disks.exists(self.spec.path):
            raise Conflict(
                "foreign_disk",
                f"{self.spec.path} is there, but is no ext4 image labelled {self.spec.label}",
                hint="hostd never overwrites a data disk: repair it or move it away",
            )
        host.disks.make(self.spec)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class DiskCurrent:
    """A disk that hostd fills is there with exactly these files."""

    spec: DiskSpec
    name: str

    def done(self, host: Host) -> bool:
        return host.disks.holds(self.spec)

    def apply(self, host: Host) -> None:
        host.disks.make(self.spec)

    def undo(self, host: Host) -> None:
        host.disks.remove(self.spec.path)


@dataclass(frozen=True, slots=True)
class SecretsRestored:
    """The secrets disk that the guest slept with is back in memory."""

    ref: InstanceRef
    source: Path
    name: str = "secrets_restored"

    def done(self, host: Host) -> bool:
        target = host.disks.secrets_path(self.ref.instance_id)
        return host.disks.same(self.source, target)

    def apply(self, host: Host) -> None:
        host.disks.copy(self.source, host.disks.secrets_path(self.ref.instance_id))

    def undo(self, host: Host) -> None:
        host.disks.remove(host.disks.secrets_path(self.ref.instance_id))


@dataclass(frozen=True, slots=True)
class SecretsAbsent:
    """No secrets disk is in memory."""

    ref: InstanceRef
    name: str = "secrets_absent"

    def done(self, host: Host) -> bool:
        return not host.disks.exists(host.disks.secrets_path(self.ref.instance_id))

    def apply(self, host: Host) -> None:
        host.disks.remove(host.disks.secrets_path(self.ref.instance_id))

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class VolumesWiped:
    """Every volume of the instance was discarded, then removed."""

    volumes: Path
    name: str = "volumes_wiped"

    def done(self, host: Host) -> bool:
        return not host.disks.exists(self.volumes)

    def apply(self, host: Host) -> Mapping[str, Any]:
        return {"wiped": host.disks.wipe(self.volumes)}

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class PathAbsent:
    """Nothing is at `path`."""

    path: Path
    name: str

    def done(self, host: Host) -> bool:
        return not host.disks.exists(self.path)

    def apply(self, host: Host) -> None:
        host.disks.remove(self.path)

    def undo(self, host: Host) -> None:
        pass
