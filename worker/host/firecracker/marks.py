"""Empty files in an instance's runtime directory: what was done to this VMM's guest.

They go with the jail, as all of that directory does.  A mark that stands for a danger is made
before what it warns of, so a kill leaves it too early rather than too late.
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
    """Whether the mark is there."""
    return (runtime / mark).exists()


def put(runtime: Path, mark: str) -> None:
    """The mark is there, unless the directory is gone."""
    with contextlib.suppress(FileNotFoundError):
        (runtime / mark).touch(mode=0o600)


def drop(runtime: Path, *marks: str) -> None:
    """None of these marks is there."""
    for mark in marks:
        (runtime / mark).unlink(missing_ok=True)


def before_pause(runtime: Path) -> None:
    """The guest is about to be paused, and will have to be told when it runs again."""
    put(runtime, _PAUSED)
    drop(runtime, NOTIFIED)


def before_resume(runtime: Path) -> None:
    """The guest is about to be resumed."""
    with contextlib.suppress(FileNotFoundError):
        (runtime / _PAUSED).rename(runtime / RESUMED)


def after_snapshot(runtime: Path) -> None:
    """A snapshot was taken of the paused guest: a resume after it is no bare one."""
    drop(runtime, _PAUSED)
