"""An instance's disks: ext4 images and LUKS2 containers, built aside and then renamed.

Files for an image are written directly into it, so secrets of an image in memory are never on a
disk.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from enqueue.requests import InstanceId
from worker.errors import Conflict
from worker.host.disks import ext4, luks
from worker.host.disks import wipe as wiping
from worker.host.disks.format import MIB, UnfinishedDisk, no_space_if_full
from worker.host.disks.secrets_tmpfs import SecretsTmpfs
from worker.linux import device_mapper, files, luks_header, sparse
from worker.model.names import MAPPER_PREFIX
from worker.ports import CryptSpec, DiskSpec

_UNFINISHED: Final = ".new"
_DELETED: Final = " (deleted)"  # as the kernel marks a path that is gone (drivers/block/loop.c)
_SECRETS_DISK: Final = re.compile(r"\A\.?(i-[0-9a-f]{8})\.ext4(?:\.new)?\Z")


class Ext4Disks:
    """Implements `worker.ports.Disks`.  `runtime` is `[paths] runtime`."""

    def __init__(self, runtime: Path, *, secrets_size_mib: int = 512) -> None:
        self._memory = SecretsTmpfs(runtime / "secrets", size_mib=secrets_size_mib)
        self._begun: dict[Path, UnfinishedDisk] = {}

    def close(self) -> None:
        """Unmounts the tmpfs with all secrets disks: no guest may run."""
        self._memory.close()

    def label(self, path: Path) -> str | None:
        found = ext4.superblock(path)
        return None if found is None else found.label

    def matches(self, spec: DiskSpec) -> bool:
        # A disk without files is the guest's to fill: any content is accepted.
        found = ext4.superblock(spec.path)
        if found is None or (found.label, found.size_bytes) != (spec.label, spec.size_mib * MIB):
            return False
        return not spec.files or ext4.is_filled(spec.path, spec.label, spec.files)

    def same(self, source: Path, target: Path) -> bool:
        try:
            with source.open("rb") as one, target.open("rb") as other:
                return sparse.same(one.fileno(), other.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def make(self, spec: DiskSpec) -> None:
        if not spec.files:
            if not self.is_begun(spec):
                self.begin(spec)
            self._begun.pop(spec.path).finish()
            return
        self._prepare(spec.path)
        # Not durable: `matches` reads all of it, and finds what a power cut damaged.
        with files.built(spec.path, mode=spec.mode, durably=False) as fd:
            os.ftruncate(fd, spec.size_mib * MIB)
            ext4.make_filled(fd, spec.label, spec.files)

    def begin(self, spec: DiskSpec) -> None:
        self.abandon(spec)
        self._prepare(spec.path)
        self._begun[spec.path] = UnfinishedDisk(spec)

    def is_begun(self, spec: DiskSpec) -> bool:
        begun = self._begun.get(spec.path)
        return begun is not None and begun.spec == spec

    def abandon(self, spec: DiskSpec) -> None:
        if (begun := self._begun.pop(spec.path, None)) is not None:
            begun.abandon()

    def crypt_label(self, path: Path) -> str | None:
        found = luks_header.read_header(path)
        return None if found is None else found.label

    def make_crypt(self, spec: CryptSpec, *, size_mib: int, label: str) -> None:
        if os.path.lexists(spec.path):
            raise Conflict("foreign_disk", f"{spec.path} is there already")
        secret, temporary = luks.read_key(spec.key), _unfinished(spec.mapper)
        luks.require_device_mapper()
        self._prepare(spec.path)
        luks.close(temporary)
        with files.built(spec.path, mode=0o600) as fd:
            os.ftruncate(fd, luks.DATA_AT_BYTES + size_mib * MIB)
            new = files.aside(spec.path)
            with no_space_if_full(spec.path):
                luks.format_new(new, label, secret)
                with luks.opened(new, temporary, secret) as device:
                    ext4.make_empty(device, label, zeroed=False)

    def crypt_open(self, spec: CryptSpec) -> bool:
        return luks.is_open(spec.path, spec.mapper)

    def open_crypt(self, spec: CryptSpec) -> None:
        if self.crypt_open(spec):
            return
        if self.crypt_label(spec.path) is None:
            raise Conflict(
                "missing_file",
                f"there is no LUKS2 container at {spec.path}",
                hint="restore the instance's data disk",
            )
        if device_mapper.mapped(spec.mapper) is not None:
            raise Conflict(
                "foreign_mapper",
                f"{device_mapper.DIRECTORY / spec.mapper} exists, but is not {spec.path}",
                hint="`cryptsetup status` says what it is; close it if nothing needs it",
            )
        luks.open_device(spec.path, spec.mapper, luks.read_key(spec.key))

    def mapped(self, mapper: str) -> bool:
        names = (mapper, _unfinished(mapper))
        return any(device_mapper.mapped(name) is not None for name in names)

    def close_crypt(self, mapper: str) -> None:
        for name in (mapper, _unfinished(mapper)):
            luks.close(name)

    def secrets_path(self, instance: InstanceId) -> Path:
        return self._memory.path / f"{instance}.ext4"

    def secrets(self) -> frozenset[InstanceId]:
        try:
            names = [path.name for path in self._memory.path.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return frozenset()
        found = (_SECRETS_DISK.match(name) for name in names)
        return frozenset(InstanceId(match[1]) for match in found if match)

    def open_containers(self) -> Mapping[str, Path]:
        """A container's uuid proves that cryptsetup opened it by this name."""
        found: dict[str, Path] = {}
        for device in device_mapper.devices():
            name = device.name
            if not name.startswith(MAPPER_PREFIX) or not luks.is_container_of(name, device.uuid):
                continue
            files_below = device_mapper.backing_files(device)
            if len(files_below) == 1:
                path = Path(files_below[0].removesuffix(_DELETED))
                found[name.removesuffix(_UNFINISHED)] = path
        return found

    def copy(self, source: Path, target: Path) -> None:
        self._prepare(target)
        with source.open("rb") as reader, files.built(target, mode=0o600) as fd:
            sparse.copy(reader.fileno(), fd)

    def remove(self, path: Path) -> None:
        """Removes what a killed attempt left beside it, too."""
        files.remove(files.aside(path))
        files.remove(path)

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """`method`: `luks_erase` overwrote keyslots and header (`luks_overwrite`: a header that
        cryptsetup could not read), `punch_hole` freed the blocks (discarded on the device if its
        filesystem is mounted so), `overwrite` wrote zeros over them, `none` found no file.  No
        method reaches copies that a copy-on-write filesystem or a device keeps.
        """
        base = path if path.is_dir() else path.parent
        disks: list[dict[str, Any]] = []
        for file in wiping.regular_files(path):
            disks.append({"file": str(file.relative_to(base)), **wiping.wipe(file)})
        self.remove(path)
        methods = {method for disk in disks for method in disk["method"].split("+")}
        return {
            "bytes": sum(disk["bytes"] for disk in disks),
            "files": len(disks),
            "method": "+".join(sorted(methods)) or "none",
            "disks": disks,
        }

    def exists(self, path: Path) -> bool:
        """In memory, what a killed attempt left of a secrets disk counts, too."""
        paths = [path]
        if path.parent == self._memory.path:
            paths.append(files.aside(path))
        return any(os.path.lexists(one) for one in paths)

    def _prepare(self, target: Path) -> None:
        if target.parent == self._memory.path:
            self._memory.ensure()
        else:
            files.make_directory(target.parent, mode=0o700)


def _unfinished(mapper_name: str) -> str:
    """The device's name while its container is made; ids have no dots, so no instance has it."""
    return f"{mapper_name}{_UNFINISHED}"
