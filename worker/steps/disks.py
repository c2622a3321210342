"""Steps for an instance's disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import Conflict
from worker.model.names import InstanceRef, mapper_name
from worker.ports import CryptSpec, DiskSpec, Host


@dataclass(frozen=True, slots=True)
class DataDiskBegun:
    """The instance's data disk exists or is being made; steps that do not need it run meanwhile."""

    spec: DiskSpec
    name: str = "data_disk_begun"

    def done(self, host: Host) -> bool:
        return host.disks.label(self.spec.path) == self.spec.label or host.disks.is_begun(self.spec)

    def apply(self, host: Host) -> None:
        if host.disks.exists(self.spec.path):
            raise _refused(self.spec, None, host)
        host.disks.begin(self.spec)

    def undo(self, host: Host) -> None:
        host.disks.abandon(self.spec)


@dataclass(frozen=True, slots=True)
class DataDiskPresent:
    """The instance's data disk is whole: an ext4 image or, with `crypt`, a LUKS2 container.

    It is made once, never undone or overwritten, and never taken for the other kind.
    """

    spec: DiskSpec
    crypt: CryptSpec | None = None
    name: str = "data_disk_present"

    def done(self, host: Host) -> bool:
        look = host.disks.label if self.crypt is None else host.disks.crypt_label
        return look(self.spec.path) == self.spec.label

    def apply(self, host: Host) -> None:
        if host.disks.exists(self.spec.path):
            raise _refused(self.spec, self.crypt, host)
        if self.crypt is None:
            host.disks.make(self.spec)
        else:
            host.disks.make_crypt(self.crypt, size_mib=self.spec.size_mib, label=self.spec.label)

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class DiskOpen:
    """The instance's encrypted disk is open as its own device."""

    spec: CryptSpec
    name: str = "disk_open"

    def done(self, host: Host) -> bool:
        return host.disks.crypt_open(self.spec)

    def apply(self, host: Host) -> None:
        host.disks.open_crypt(self.spec)

    def undo(self, host: Host) -> None:
        host.disks.close_crypt(self.spec.mapper)


@dataclass(frozen=True, slots=True)
class DiskClosed:
    """No device decrypts the instance's disk, whether or not the disk is encrypted."""

    ref: InstanceRef
    name: str = "disk_closed"

    def done(self, host: Host) -> bool:
        return not host.disks.mapped(mapper_name(self.ref))

    def apply(self, host: Host) -> None:
        host.disks.close_crypt(mapper_name(self.ref))

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class DiskCurrent:
    """A disk that hostd fills exists, with exactly these files."""

    spec: DiskSpec
    name: str

    def done(self, host: Host) -> bool:
        return host.disks.matches(self.spec)

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
    """Every volume of the instance was discarded, a container's keyslots first, then removed.

    The result has a receipt of what the last attempt found.
    """

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


def _refused(spec: DiskSpec, crypt: CryptSpec | None, host: Host) -> Conflict:
    """The error for a file at the data disk's path that is not this disk."""
    path, label = spec.path, spec.label
    if crypt is None and host.disks.crypt_label(path) is not None:
        return Conflict(
            "no_key",
            f"{path} is encrypted, but the tenant has no key",
            hint="put the tenant's key back; without it the disk cannot be read",
        )
    if crypt is not None and host.disks.label(path) is not None:
        return Conflict(
            "plain_disk",
            f"{path} is not encrypted, but the tenant has a key now",
            hint="hostd does not encrypt a disk that has data: move the disk or the key away",
        )
    return Conflict(
        "foreign_disk",
        f"{path} exists, but is not a data disk labelled {label}",
        hint="hostd never overwrites a data disk: repair it or move it away",
    )
