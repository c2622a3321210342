"""The port of disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from enqueue.requests import InstanceId


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """An ext4 image: `files` maps a name in its root directory to (bytes, mode)."""

    path: Path
    size_mib: int
    label: str
    mode: int = 0o600
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CryptSpec:
    """A LUKS2 container in the file at `path` with an ext4 filesystem inside.

    `mapper` names the device that it is opened as, `key` the file with its key.
    """

    path: Path
    mapper: str
    key: Path


class Disks(Protocol):
    """ext4 images, encrypted ones among them, and the memory-backed directory for secrets."""

    def label(self, path: Path) -> str | None:
        """The label of the ext4 image at `path`; None if there is no whole ext4 image."""

    def matches(self, spec: DiskSpec) -> bool:
        """Whether the image at `spec.path` has this size, label and these files, all of it read; of
        one without files, which is the guest's to fill, only size and label."""

    def same(self, source: Path, target: Path) -> bool:
        """Whether both are there with the same bytes."""

    def make(self, spec: DiskSpec) -> None:
        """A new image is at `spec.path`, whole or not at all (built aside, renamed).

        It replaces what is there: the caller looks first.  One without files is durable; of one
        with files a power cut may leave less, which `matches` finds out.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool failed; the message carries what it said.
        """

    def begin(self, spec: DiskSpec) -> None:
        """An image without files is being made aside: `make` of the same spec awaits it.

        It is this process's alone: a restarted hostd knows nothing of it, and makes another.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool is not there.
        """

    def is_begun(self, spec: DiskSpec) -> bool:
        """Whether `begin` was called, and neither `make` nor `abandon` since."""

    def abandon(self, spec: DiskSpec) -> None:
        """Nothing that was begun for `spec` is left."""

    def crypt_label(self, path: Path) -> str | None:
        """The label of the LUKS2 container at `path`; None if there is no whole header of one."""

    def make_crypt(self, spec: CryptSpec, *, size_mib: int, label: str) -> None:
        """A new container is at `spec.path`, durable, closed, whole or not at all; mode 0600.

        The container and the filesystem inside have the label, the filesystem the size.  What is
        at `spec.path` is never replaced.

        Raises:
            Conflict: `foreign_disk`, something is there; `no_key`, `bad_key`.
            Transient: `no_space`, `mapper_busy`.
            Broken: `cryptsetup`, `no_device_mapper`, `mke2fs`.
        """

    def crypt_open(self, spec: CryptSpec) -> bool:
        """Whether the device `spec.mapper` is there and is this very container, opened."""

    def open_crypt(self, spec: CryptSpec) -> None:
        """The container is open as `spec.mapper`.

        Raises:
            Conflict: `missing_file`, there is no container; `no_key`, `bad_key`, `wrong_key`;
                `foreign_mapper`, the device is there, but is another.
            Transient: `mapper_busy`.
            Broken: `cryptsetup`, `no_device_mapper`.
        """

    def mapped(self, mapper: str) -> bool:
        """Whether a device of that name is there, or the one under which a killed attempt was
        making the container."""

    def close_crypt(self, mapper: str) -> None:
        """Neither of the two is there.

        Raises:
            Transient: `mapper_busy`.
            Broken: `cryptsetup`.
        """

    def secrets_path(self, instance: InstanceId) -> Path:
        """Where the instance's secrets disk lies while its guest runs: on a tmpfs."""

    def secrets(self) -> frozenset[InstanceId]:
        """Every instance of which a secrets disk, whole or in part, is in memory."""

    def open_containers(self) -> Mapping[str, Path]:
        """Every device that is an opened container of hostd's: its name as a `mapper`, and where
        the container lies; the one under which a killed attempt was making it counts too."""

    def copy(self, source: Path, target: Path) -> None:
        """`target` has the bytes of `source`, durable, whole or not at all; mode 0600.

        Raises:
            Transient: `no_space`.
        """

    def remove(self, path: Path) -> None:
        """Nothing is at `path` (a file or a directory tree), durably."""

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """The blocks of the file, or of every file below the directory, are discarded, a closed
        container's keyslots before, then it is removed, durably.

        Returns a receipt `{"bytes", "files", "method", "disks"}`; `disks` has for each file
        `{"file", "bytes", "method"}`, and `"keyslots_left"`, as read back, for a container.

        Raises:
            Broken: `keyslots_left`, they could not be erased; the disk is still there.
        """

    def exists(self, path: Path) -> bool:
        """Whether anything is at `path`."""
