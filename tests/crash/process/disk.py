"""A filesystem that can lose power: all data that was not synced is then gone."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Final

from worker.linux import mounts

_SIZE_MIB: Final = 512
_IOC_SHUTDOWN: Final = 0x8004587D  # EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32)
_NOLOGFLUSH: Final = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: the journal's memory is dropped


class LoopDisk:
    """ext4 in a file, mounted at `top`.

    No timer commits its journal within a test, so data that is not synced stays in memory.
    """

    def __init__(self, directory: Path) -> None:
        self.top = directory / "disk"
        self._image = directory / "disk.img"
        self.top.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_SIZE_MIB << 20)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(self._image)], check=True)
        self._mount()

    def cut_power(self) -> None:
        """Stops all writes to the disk, and drops all data that was not synced."""
        fd = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Mounts the disk again; no process may have a file of it open.

        Raises:
            CalledProcessError: it is in use, or damaged.
        """
        subprocess.run(["umount", str(self.top)], check=True)
        subprocess.run(["fsck.ext4", "-p", str(self._image)], check=False, capture_output=True)
        subprocess.run(["fsck.ext4", "-f", "-n", str(self._image)], check=True, capture_output=True)
        self._mount()

    def close(self) -> None:
        """Unmounts it."""
        for point in mounts.below(self.top):
            mounts.unmount(point)

    def _mount(self) -> None:
        options = "loop,commit=300"
        subprocess.run(["mount", "-o", options, str(self._image), str(self.top)], check=True)
