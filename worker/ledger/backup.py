"""A checked copy of the ledger, made while hostd runs."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from worker.errors import StartupError
from worker.ledger.checks import faults
from worker.ledger.ledger import Ledger
from worker.ledger.meta import BACKUP_AT
from worker.ledger.readonly import open_readonly


def backup(path: Path, target: Path, *, now_ms: int) -> int:
    """Makes `target` a copy of the ledger, durable, 0600, checked; returns its size in bytes.

    The copy is marked as one, so that a hostd that starts with it knows that requests are missing.

    Raises:
        StartupError: the ledger is damaged, or `target` exists or cannot be written.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        if target.exists() or target.is_symlink():
            raise StartupError(f"{target} exists already; a backup never replaces a file")
        partial.unlink(missing_ok=True)  # what a killed backup left
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        try:
            _copy(path, partial, now_ms)
            _sync(partial)
            os.link(partial, target)  # unlike a rename, it never replaces anything
        finally:
            with suppress(FileNotFoundError):
                partial.unlink()
        _sync(target.parent)
        return target.stat().st_size
    except OSError as error:
        raise StartupError(f"{target}: {error.strerror}") from error


def _copy(path: Path, partial: Path, now_ms: int) -> None:
    with open_readonly(path) as source, source.database.copied_to(partial) as database:
        copy = Ledger(database)
        if wrong := faults(copy):
            raise StartupError(f"ledger {path} is damaged, no backup was made: {wrong[0]}")
        copy.meta.set(BACKUP_AT, str(now_ms))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
