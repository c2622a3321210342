"""Files and directories that survive a power cut, complete.

A rename is durable only once the directory with the name was fsynced.  A failed fsync is final: the
kernel has dropped the dirty pages and would report success the next time (fsync(2)), so the new
file is deleted.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.linux import libc
from worker.linux.space import no_space

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_FDCWD: Final = -100  # linux/fcntl.h
_RENAME_EXCHANGE: Final = 2  # linux/fs.h


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Translates the kernel's errors about `path`.

    Raises:
        Transient: `no_space`, the filesystem or a quota is full.
        Broken: `io_error`, the device failed.
        OSError: anything else.
    """
    try:
        yield
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise no_space(path) from error
            case errno.EIO:
                raise Broken(
                    "io_error",
                    f"the device under {path} failed: {error.strerror}",
                    hint="read the kernel's log; replace the disk",
                ) from error
            case _:
                raise


def aside(path: Path) -> Path:
    """The path beside `path` where it is built; a later attempt finds and replaces it."""
    return path.with_name(f".{path.name}.new")


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes the file at `path` durably; after an error it is unchanged.

    It keeps the owner and mode of a regular file that it replaces; else the caller's, and `mode`.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    with built(path, mode=mode) as fd:
        _inherit(path, fd)
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]


@contextmanager
def built(path: Path, *, mode: int, durably: bool = True) -> Iterator[int]:
    """A new file, open for writing, that durably replaces `path` when the block ends.

    If not `durably`, a power cut may leave the old file, or the new one with holes.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    new = aside(path)
    with translate_errors(path), _deleted_on_error(new):
        new.unlink(missing_ok=True)
        fd = os.open(new, _NEW, 0o600)
        try:
            os.fchmod(fd, mode)
            yield fd
            if durably:
                os.fsync(fd)
        finally:
            os.close(fd)
        if durably:
            rename(new, path)
        else:
            new.rename(path)


def rename(source: Path, target: Path) -> None:
    """Renames `source` to `target` durably, replacing it.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    with translate_errors(target):
        source.rename(target)
        sync_directory(target.parent)
        if source.parent != target.parent:
            sync_directory(source.parent)


def exchange(one: Path, other: Path) -> None:
    """Exchanges the two names, durably and atomically (renameat2(2), RENAME_EXCHANGE).

    Raises:
        Broken: `io_error`.
        OSError: the kernel refused; EINVAL where the filesystem cannot.
    """
    with translate_errors(other):
        names = os.fsencode(one), os.fsencode(other)
        arguments = (_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
        libc.call("renameat2", *arguments, path=one)
        sync_directory(other.parent)


def remove(path: Path) -> None:
    """Removes the file or tree at `path`, if any, durably.  Symlinks are removed, never followed.

    Raises:
        Broken: `io_error`.
    """
    delete(path)
    with translate_errors(path):
        if path.parent.is_dir():  # a killed attempt may have removed, but not synced
            sync_directory(path.parent)


def delete(path: Path) -> None:
    """Like `remove`, but a power cut may bring it back.

    Raises:
        Broken: `io_error`.
    """
    with translate_errors(path):
        try:
            if stat.S_ISDIR(path.lstat().st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            pass


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """Makes the directory at `path` durably, and its missing parents with the same mode.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    if path.is_dir():
        return
    make_directory(path.parent, mode=mode)
    with translate_errors(path):
        path.mkdir(mode=mode, exist_ok=True)
        sync_directory(path.parent)


def sync(path: Path) -> None:
    """Makes the bytes of the file at `path` durable.

    Raises:
        Transient: `no_space`, a delayed write found no room.
        Broken: `io_error`.
    """
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    """Makes the names in the directory at `path` durable.

    Raises:
        Transient: `no_space`.
        Broken: `io_error`.
    """
    _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync(path: Path, flags: int) -> None:
    with translate_errors(path):
        fd = os.open(path, flags)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _inherit(path: Path, fd: int) -> None:
    try:
        old = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(old.st_mode):
        os.fchown(fd, old.st_uid, old.st_gid)
        os.fchmod(fd, stat.S_IMODE(old.st_mode))


@contextmanager
def _deleted_on_error(path: Path) -> Iterator[None]:
    """Deletes `path` after an error.  What a kill leaves there is replaced by the next attempt."""
    try:
        yield
    except Exception:
        path.unlink(missing_ok=True)
        raise
