"""The device mapper's own word on a device, by its name (ioctl(2), linux/dm-ioctl.h).

`cryptsetup status` says the same in words and takes a process; this is exact, also while udev has
not made the node yet.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.errors import Broken

DIRECTORY: Final = Path("/dev/mapper")
_CONTROL: Final = DIRECTORY / "control"
_REQUEST: Final = struct.Struct("=3I3IiIII Q128s129s7x")
_DEV_STATUS: Final = 3 << 30 | _REQUEST.size << 16 | 0xFD << 8 | 7  # DM_DEV_STATUS
_DM_LIST_DEVICES: Final = 3 << 30 | _REQUEST.size << 16 | 0xFD << 8 | 2
_BUFFER_FULL: Final = 1 << 8  # DM_BUFFER_FULL_FLAG
_ENTRY: Final = struct.Struct("=QI")  # struct dm_name_list: device, offset of the next, name
_VERSION: Final = (4, 0, 0)
_NOT_THERE: Final = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A device of the device mapper: its number, its uuid, how often it is open."""

    number: int
    uuid: str
    open_count: int


def mapped(name: str) -> Mapped | None:
    """The device of that name; None if there is none, or no device mapper at all.

    Raises:
        OSError: the kernel refused.
    """
    with _control() as control:
        return None if control is None else _status(control, name)


def names() -> tuple[str, ...]:
    """The names of all devices; none without a device mapper.

    Raises:
        OSError: the kernel refused.
    """
    with _control() as control:
        return () if control is None else tuple(_listed(control))


@contextmanager
def _control() -> Iterator[int | None]:
    """The device mapper's own device, open; None without a device mapper."""
    try:
        control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        yield None
        return
    try:
        yield control
    finally:
        os.close(control)


def require() -> None:
    """Nothing: the kernel has a device mapper.

    Raises:
        Broken: `no_device_mapper`.
    """
    try:
        os.close(os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Broken(
            "no_device_mapper",
            f"{_CONTROL} does not open: {error.strerror}",
            hint="modprobe dm_crypt; a container needs /dev/mapper/control and devices 253:*",
        ) from error


def backing_files(number: int) -> list[str]:
    """The files below the device's loop devices, as the kernel names them."""
    slaves = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/slaves")
    try:
        return [
            (slave / "loop" / "backing_file").read_text().rstrip("\n") for slave in slaves.iterdir()
        ]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _status(control: int, name: str) -> Mapped | None:
    size = _REQUEST.size
    request = _REQUEST.pack(*_VERSION, size, size, 0, 0, 0, 0, 0, 0, name.encode(), b"")
    try:
        said = _REQUEST.unpack(fcntl.ioctl(control, _DEV_STATUS, request))
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    open_count, device, uuid = said[6], said[10], said[12]
    return Mapped(_number(device), uuid.split(b"\0")[0].decode(), open_count)


def _listed(control: int) -> Iterator[str]:
    """The kernel's list, in a buffer that is made larger until it fits."""
    size = 1 << 14
    while True:
        answer = bytearray(size)
        _REQUEST.pack_into(answer, 0, *_VERSION, size, _REQUEST.size, *([0] * 6), b"", b"")
        fcntl.ioctl(control, _DM_LIST_DEVICES, answer)
        said = _REQUEST.unpack_from(answer)
        if not said[7] & _BUFFER_FULL:
            return names_in(bytes(answer[said[4] : said[3]]))
        size *= 2


def names_in(listed: bytes) -> Iterator[str]:
    """The names in a list of `struct dm_name_list`, as the kernel packs it."""
    at = 0
    while at + _ENTRY.size <= len(listed):
        device, following = _ENTRY.unpack_from(listed, at)
        if not device:  # an empty list is one entry of device 0
            return
        begin = at + _ENTRY.size
        yield listed[begin : listed.index(b"\0", begin)].decode()
        if not following:
            return
        at += following


def _number(device: int) -> int:
    """The device number in the kernel's form for user space (linux/kdev_t.h, new_encode_dev)."""
    major, minor = (device >> 8) & 0xFFF, (device & 0xFF) | (device >> 12) & 0xFFF00
    return os.makedev(major, minor)
