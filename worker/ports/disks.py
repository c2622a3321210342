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


class Disks(Protocol):
    """ext4 images, and the memory-backed directory for secrets."""

    def label(self, path: Path) -> str | None:
        """The label of the ext4 image at `path`; None if there is no whole ext4 image."""

    def holds(self, spec: DiskSpec) -> bool:
        """Whether the whole image at `spec.path` has this size, label and these files: its ext4
        UUID is derived from the files' names, modes and bytes."""

    def same(self, source: Path, target: Path) -> bool:
        """Whether both are there with the same bytes."""

    def make(self, spec: DiskSpec) -> None:
        """A new image is at `spec.path`, durable, whole or not at all (built aside, renamed).

        It replaces what is there: the caller looks first.

        Raises:
            Transient: `no_space`.
            Broken: `mke2fs`, the tool failed; the message carries what it said.
        """

    def secrets_path(self, instance: InstanceId) -> Path:
        """Where the instance's secrets disk lies while its guest runs: on a tmpfs."""

    def copy(self, source: Path, target: Path) -> None:
        """`target` has the bytes of `source`, durable, whole or not at all; mode 0600.

        Raises:
            Transient: `no_space`.
        """

    def remove(self, path: Path) -> None:
        """Nothing is at `path` (a file or a directory tree), durably."""

    def wipe(self, path: Path) -> Mapping[str, Any]:
        """The blocks of the file, or of every file below the directory, are discarded, then it is
        removed, durably; returns a receipt `{"bytes", "files", "method"}`."""

    def exists(self, path: Path) -> bool:
        """Whether anything is at `path`."""
