"""Marks: empty files in an instance's runtime directory that say what was done to the guest.

They are deleted with the jail, as the whole directory is.  A mark that warns of a danger is set
before the dangerous call, so that a kill of hostd may leave one too many but never one too few.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

NOTIFIED: Final = "agent.notified"
READY: Final = "agent.ready"
RESTORED: Final = "vsock.restored"
RESUMED: Final = "vsock.resumed"  # paused and resumed, with no snapshot between
_PAUSED: Final = "vsock.paused"


def has(runtime: Path, mark: str) -> bool:
    """Whether the mark is set."""
    return (runtime / mark).exists()


def put(runtime: Path, mark: str) -> None:
    """Sets the mark, unless the directory is gone."""
    with contextlib.suppress(FileNotFoundError):
        (runtime / mark).touch(mode=0o600)


def drop(runtime: Path, *marks: str) -> None:
    """Clears these marks."""
    for mark in marks:
        (runtime / mark).unlink(missing_ok=True)


def before_pause(runtime: Path) -> None:
    """To be called before a pause: the guest must then be notified when it runs again."""
    put(runtime, _PAUSED)
    drop(runtime, NOTIFIED)


def before_resume(runtime: Path) -> None:
    """To be called before a resume."""
    with contextlib.suppress(FileNotFoundError):
        (runtime / _PAUSED).rename(runtime / RESUMED)


def after_snapshot(runtime: Path) -> None:
    """To be called after a snapshot: the next resume is then not a bare one."""
    drop(runtime, _PAUSED)
