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
        """The label of the ext4 image at `path`; None if it is not a complete ext4 image."""

    def matches(self, spec: DiskSpec) -> bool:
        """Whether the image at `spec.path` has this size, label and these files, byte by byte.

        For an image without files, which its guest fills, compares only size and label.
        """

    def same(self, source: Path, target: Path) -> bool:
        """Whether both exist with the same bytes."""

    def make(self, spec: DiskSpec) -> None:
        """Makes a new image at `spec.path`, atomically (built aside, renamed).

        It replaces what is there: the caller checks first.  An image without files is durable;
        after a power cut one with files may be incomplete, which `matches` detects.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool failed; the message has its output.
        """

    def begin(self, spec: DiskSpec) -> None:
        """Starts making an image without files, aside: `make` with the same spec waits for it.

        It belongs to this process: a restarted hostd makes another.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool is not installed.
        """

    def is_begun(self, spec: DiskSpec) -> bool:
        """Whether `begin` was called, and neither `make` nor `abandon` since."""

    def abandon(self, spec: DiskSpec) -> None:
        """Stops and removes what was begun for `spec`."""

    def crypt_label(self, path: Path) -> str | None:
        """The label of the LUKS2 container at `path`; None without a valid header."""

    def make_crypt(self, spec: CryptSpec, *, size_mib: int, label: str) -> None:
        """Makes a new container at `spec.path`, durably and atomically; mode 0600; not open.

        The container and the filesystem inside get the label, the filesystem the size.  What is at
        `spec.path` is never replaced.

        Raises:
            Conflict: `foreign_disk`, something is there already; `no_key`, `bad_key`.
            Transient: `no_space`, `mapper_busy`.
            Broken: `cryptsetup`, `no_device_mapper`, `mke2fs`.
        """

    def crypt_open(self, spec: CryptSpec) -> bool:
        """Whether the device `spec.mapper` is this container."""

    def open_crypt(self, spec: CryptSpec) -> None:
        """Opens the container as `spec.mapper`.

        Raises:
            Conflict: `missing_file`, there is no container; `no_key`, `bad_key`, `wrong_key`;
                `foreign_mapper`, the device is not this container.
            Transient: `mapper_busy`.
            Broken: `cryptsetup`, `no_device_mapper`.
        """

    def mapped(self, mapper: str) -> bool:
        """Whether the device exists, or that of a killed attempt to make the container."""

    def close_crypt(self, mapper: str) -> None:
        """Closes both devices, if they exist.

        Raises:
            Transient: `mapper_busy`.
            Broken: `cryptsetup`.
        """

    def secrets_path(self, instance: InstanceId) -> Path:
        """The path of the instance's secrets disk while its guest runs: on a tmpfs."""

    def secrets(self) -> frozenset[InstanceId]:
        """Every instance with a secrets disk, complete or not, in memory."""

    def open_containers(self) -> Mapping[str, Path]:
        """Every open container of hostd's: the `mapper` of its device, and its path.

        The device of a killed attempt to make the container is included.
        """

    def copy(self, source: Path, target: Path) -> None:
        """Copies `source` to `target`, durably and atomically; mode 0600.

        Raises:
            Transient: `no_space`.
        """

    def remove(self, path: Path) -> None:
        """Removes the file or directory tree at `path` durably."""

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """Discards the blocks of the file, or of every file below it, then removes it durably.

        Erases the keyslots of a (closed) container before.

        Returns a receipt `{"bytes", "files", "method", "disks"}`; `disks` has for each file
        `{"file", "bytes", "method"}`, and `"keyslots_left"`, as read back, for a container.

        Raises:
            Broken: `keyslots_left`, they could not be erased; the disk was not removed.
        """

    def exists(self, path: Path) -> bool:
        """Whether anything is at `path`."""
