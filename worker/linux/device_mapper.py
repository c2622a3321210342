"""The devices of the device mapper, as sysfs shows them, by their names.

`cryptsetup status` reports the same as text and takes a process; sysfs is exact, also before udev
has made the node.  Files are those of the kernel's Documentation/ABI/testing/sysfs-block-dm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.linux import procfs

DIRECTORY: Final = Path("/dev/mapper")
_CONTROL: Final = DIRECTORY / "control"
_BLOCK: Final = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class Mapped:
    """A device of the device mapper: its name, its number, its uuid, its directory in sysfs."""

    name: str
    number: int
    uuid: str
    directory: Path


def mapped(name: str) -> Mapped | None:
    """The device of that name; None without one, or without a device mapper.

    Raises:
        OSError: the kernel refused.
    """
    return next((device for device in devices() if device.name == name), None)


def devices() -> Iterator[Mapped]:
    """All devices; without a device mapper, no device.

    Raises:
        OSError: the kernel refused.
    """
    for directory in sorted(_BLOCK.glob("dm-*")):
        try:
            name, uuid = (procfs.text(directory / "dm" / file) for file in ("name", "uuid"))
            major, _, minor = procfs.text(directory / "dev").partition(":")
        except (FileNotFoundError, ProcessLookupError):  # it was removed meanwhile
            continue
        yield Mapped(name, os.makedev(int(major), int(minor)), uuid, directory)


def open_control() -> None:
    """Returns if the kernel has a device mapper that this process may use.

    Raises:
        OSError: it has none, or refused.
    """
    os.close(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC))


def backing_files(device: Mapped) -> list[str]:
    """The files below the device's loop devices, as the kernel names them."""
    try:
        slaves = list((device.directory / "slaves").iterdir())
        return [(one / "loop" / "backing_file").read_text().rstrip("\n") for one in slaves]
    except (FileNotFoundError, NotADirectoryError):
        return []
