"""ext4 images: made without mounting, recognized by their superblock.

Offsets and values are those of the kernel's Documentation/filesystems/ext4/super.rst.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from worker.errors import Broken
from worker.linux import ext4_image, safe_open
from worker.linux.ext4_image import Files
from worker.linux.processes import Process

_SUPERBLOCK_AT: Final = 1024
_SUPERBLOCK_BYTES: Final = 1024
_UUID_AT: Final = 0x68
_MAGIC: Final = 0xEF53
_STATES: Final = 0x7  # cleanly unmounted, errors seen, orphans being recovered
_INCOMPAT_64BIT: Final = 0x80
_TIMEOUT_S: Final = 60

# Named in full, so that an image depends neither on /etc/mke2fs.conf nor on the release: newer
# defaults (orphan_file, metadata_csum_seed) are more than an older guest kernel can mount.
_FEATURES: Final = (
    "none,ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,"
    "has_journal,resize_inode,64bit,huge_file,dir_nlink,metadata_csum"
)


@dataclass(frozen=True, slots=True)
class Superblock:
    """An ext4 superblock."""

    label: str
    uuid: UUID
    size_bytes: int


def superblock(path: Path) -> Superblock | None:
    """The superblock of the image at `path`; None if it is not a complete ext4 image.

    A dirty journal or errors that a guest found are accepted: its next mount or check repairs them.
    """
    try:
        with safe_open.opened(path) as fd:
            if fd is None:
                return None
            raw = os.pread(fd, _SUPERBLOCK_BYTES, _SUPERBLOCK_AT)
            size_bytes = os.fstat(fd).st_size
    except safe_open.NotRegularFileError as error:
        if error.errno == errno.EISDIR:
            return None
        raise
    found = _parse(raw)
    return found if found is not None and found.size_bytes <= size_bytes else None


def content_uuid(named: Files) -> UUID:
    """A uuid computed from the files' names, modes and bytes."""
    digest = hashlib.sha256()
    for name, (content, mode) in sorted(named.items()):
        digest.update(struct.pack("<III", len(name), len(content), mode))
        digest.update(name.encode() + content)
    return UUID(bytes=digest.digest()[:16], version=5)


def make_empty(path: Path, label: str, *, zeroed: bool = True) -> None:
    """Makes the file or device at `path` an ext4 filesystem for a guest to write to.

    `zeroed`: unwritten blocks read as zeros.

    Raises:
        Broken: `mke2fs`.
    """
    Mke2fs(path, label, zeroed=zeroed).finish()


def is_filled(path: Path, label: str, content: Files) -> bool:
    """Whether the file at `path` is equal to what `make_filled` makes."""
    try:
        with safe_open.opened(path) as fd:
            return fd is not None and ext4_image.is_written(
                fd, label, content, content_uuid(content)
            )
    except ext4_image.NoRoomError:
        return False


def make_filled(fd: int, label: str, content: Files) -> None:
    """Makes the empty sparse file a read-only ext4 filesystem with these files.

    Raises:
        Broken: `mke2fs`, they do not fit.
        OSError: the kernel refused; ENOSPC where there is no room.
    """
    try:
        ext4_image.write(fd, label, content, content_uuid(content))
    except ext4_image.NoRoomError as error:
        raise Broken("mke2fs", f"the files of {label} do not fit: {error}") from error


def _parse(raw: bytes) -> Superblock | None:
    if len(raw) < _SUPERBLOCK_BYTES:
        return None
    (blocks,) = struct.unpack_from("<I", raw, 0x4)
    (log_block,) = struct.unpack_from("<I", raw, 0x18)
    magic, state = struct.unpack_from("<HH", raw, 0x38)
    (incompat,) = struct.unpack_from("<I", raw, 0x60)
    if incompat & _INCOMPAT_64BIT:
        blocks += struct.unpack_from("<I", raw, 0x150)[0] << 32
    if magic != _MAGIC or state & ~_STATES or log_block > 6 or blocks == 0:
        return None
    label = raw[0x78:0x88].split(b"\0")[0].decode(errors="replace")
    uuid = UUID(bytes=raw[_UUID_AT : _UUID_AT + 16])
    return Superblock(label, uuid, blocks * (1024 << log_block))


class Mke2fs:
    """Another process that makes the file or device at `path` an empty filesystem.

    With `fd` it writes to that open file: a tool that outlives its hostd must not write to a file
    that the next hostd builds under the same name.

    Raises:
        Broken: `mke2fs`, it is not installed.
    """

    def __init__(
        self, path: Path, label: str, *, fd: int | None = None, zeroed: bool = True
    ) -> None:
        # A new sparse file reads as zeros: neither mke2fs nor the guest need write any.  Unwritten
        # blocks of an encrypted one read as noise: the journal is written now, inode tables by the
        # guest's kernel after its first mount.
        blank = "assume_storage_prezeroed=1" if zeroed else "lazy_itable_init=1,lazy_journal_init=0"
        extended = f"root_owner=0:0,nodiscard,{blank}"
        form = ("-F", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-O", _FEATURES)
        target = str(path) if fd is None else "/proc/self/fd/0"
        argv = ("mke2fs", *form, "-L", label, "-E", extended, target)
        environ = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
        self._path = path
        try:
            self._tool = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL if fd is None else fd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environ,
            )
        except FileNotFoundError as error:
            raise Broken("mke2fs", "mke2fs is not installed", hint="install e2fsprogs") from error

    def finish(self) -> None:
        """Waits until the filesystem is made.

        Raises:
            Broken: `mke2fs`.
        """
        with self._tool as tool:
            # Popen.wait(timeout) polls with growing pauses; a pidfd does not.  mke2fs's
            # messages fit into the pipe's 64 KiB.
            with Process(tool.pid, os.pidfd_open(tool.pid)) as process:
                if not process.wait(timeout_s=_TIMEOUT_S):
                    tool.kill()
                    why = f"mke2fs of {self._path} took longer than {_TIMEOUT_S} s"
                    raise Broken("mke2fs", why)
            output = tool.communicate()[1].strip() or "nothing"
        if tool.returncode != 0:
            why = f"mke2fs of {self._path} printed: {output}"
            raise Broken("mke2fs", why, exit_code=tool.returncode)

    def abandon(self) -> None:
        """Kills the process."""
        with self._tool as tool:
            tool.kill()
