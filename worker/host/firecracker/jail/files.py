"""Installs files of the host in a jail: by hard link, bind mount, device node or copy."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, assert_never

from worker.errors import Broken, Conflict, Transient
from worker.linux import mounts, sparse
from worker.linux.files import aside
from worker.ports import ImageFiles, VmSpec

KERNEL: Final = "kernel"
VMSTATE: Final = "image/vmstate"
MEMORY: Final = "image/memory"
LOG: Final = "firecracker.log"

# No hard link across file systems, beyond a file's link limit, or to an immutable file.
_NO_LINK: Final = (errno.EXDEV, errno.EMLINK, errno.EPERM)


class Access(Enum):
    """Who may use a file."""

    SHARED = "shared"  # other guests use it, too: readable by all, never chowned
    PRIVATE = "private"  # for this guest only: it belongs to the jail's uid
    IMAGE = "image"  # part of a sleep image: the jail's gid may read it, no user may write it


@dataclass(frozen=True, slots=True)
class JailFile:
    """A file of the host and its name below the jail's root."""

    name: str
    source: Path
    access: Access
    read_only: bool
    unfinished: bool = False  # the disk may still be formatted, under its temporary name

    @property
    def current_path(self) -> Path:
        """The path that the file has now: an unfinished disk may have a temporary name."""
        if self.unfinished and not os.path.lexists(self.source):
            return aside(self.source)
        return self.source


def files_of(
    spec: VmSpec, image: ImageFiles | None = None, unfinished: frozenset[str] = frozenset()
) -> tuple[JailFile, ...]:
    """The files of a guest's jail."""
    files = [JailFile(KERNEL, spec.kernel, Access.SHARED, read_only=True)]
    for drive in spec.drives:
        access = Access.SHARED if drive.shared else Access.PRIVATE
        being_made = drive.id in unfinished
        files.append(JailFile(drive.id, drive.source, access, drive.read_only, being_made))
    if image is not None:
        files.append(JailFile(VMSTATE, image.vmstate, Access.IMAGE, read_only=True))
        files.append(JailFile(MEMORY, image.memory, Access.IMAGE, read_only=True))
    return tuple(files)


def log_of(runtime: Path) -> JailFile:
    """The VMM's log: a file in the runtime directory that the VMM may write."""
    return JailFile(LOG, runtime / LOG, Access.PRIVATE, read_only=False)


def install(file: JailFile, target: Path, uid: int) -> Path:
    """Installs the file at `target` for a VMM of this uid and gid; returns the resolved source.

    Raises:
        Conflict: `missing_file`, the file or device does not exist.
        OSError: the kernel refused.
    """
    try:
        path = file.current_path
        # Resolved only if it is a symlink: checking each directory above it takes longer than the
        # hard link.
        source = path.resolve(strict=True) if path.is_symlink() else path
        seen = source.stat()
    except FileNotFoundError as error:
        raise _missing(file) from error
    if stat.S_ISBLK(seen.st_mode):
        # A second node for the same device: the host's own node stays root's.
        os.mknod(target, stat.S_IFBLK, seen.st_rdev)
        os.chown(target, uid, uid)
        target.chmod(0o400 if file.read_only else 0o600)
    elif stat.S_ISREG(seen.st_mode):
        _install_regular(file, source, target, uid, seen.st_mode)
    else:
        raise _missing(file)
    return source


@contextmanager
def disk_errors() -> Iterator[None]:
    """Translates an OSError inside that comes from a full or failing disk or a missing file.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
        Conflict: `missing_file`.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise Conflict("missing_file", str(error), hint="restore the file") from error
    except OSError as error:
        if error.errno == errno.EIO:
            hint = "look at the kernel's log; replace the disk"
            raise Broken("io_error", f"the device failed: {error}", hint=hint) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Transient("no_space", f"the disk is full: {error}", path=error.filename) from error


def _install_regular(file: JailFile, source: Path, target: Path, uid: int, mode: int) -> None:
    match file.access:
        case Access.SHARED if not mode & stat.S_IROTH:
            with source.open("rb") as reader, target.open("xb") as writer:
                sparse.copy(reader.fileno(), writer.fileno())
            os.chown(target, 0, uid)
            target.chmod(0o440)
        case Access.SHARED:
            _link_or_bind(source, target, read_only=True)
        case Access.PRIVATE:
            os.chown(source, uid, uid)
            _link_or_bind(source, target, read_only=file.read_only)
        case Access.IMAGE:
            os.chown(source, 0, uid)
            source.chmod(0o440)
            _link_or_bind(source, target, read_only=True)
        case _:
            assert_never(file.access)


def _link_or_bind(source: Path, target: Path, *, read_only: bool) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        mounts.bind_file(source, target, read_only=read_only)


def _missing(file: JailFile) -> Conflict:
    return Conflict(
        "missing_file",
        f"the guest's {file.name} is not at {file.source}",
        hint="build the pool's revision, or restore the file",
    )
