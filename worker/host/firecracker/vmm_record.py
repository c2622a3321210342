"""The driver's records about a VMM, in the instance's runtime directory.

Both files name a boot id and are void in any other boot, so they are written whole, by a rename,
but not fsynced: a power cut makes them void anyway.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from worker.linux import procfs
from worker.linux.processes import Identity

_STARTED = "spawn.json"
_VMM = "vmm.json"
_PID = "fc.pid"


class StartIntent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A jailer is about to be started; all its processes are in this control group."""

    boot_id: str
    join_files: tuple[str, ...]

    def groups(self) -> tuple[Path, ...]:
        """The `cgroup.procs` files that the VMM was started in."""
        return tuple(map(Path, self.join_files))


class VmmRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A VMM that came up: its identity, and the version that it reported."""

    boot_id: str
    pid: int
    start_ticks: int
    exe_dev: int
    exe_ino: int
    version: str

    def identity(self) -> Identity:
        """The process's identity."""
        return Identity(self.boot_id, self.pid, self.start_ticks, self.exe_dev, self.exe_ino)

    @classmethod
    def of(cls, identity: Identity, version: str) -> VmmRecord:
        """The record of a process."""
        return cls(
            boot_id=identity.boot_id,
            pid=identity.pid,
            start_ticks=identity.start_ticks,
            exe_dev=identity.exe_dev,
            exe_ino=identity.exe_ino,
            version=version,
        )


T = TypeVar("T", StartIntent, VmmRecord)


def write_intent(runtime: Path, intent: StartIntent) -> None:
    """Records the intent to start, and forgets any older VMM."""
    (runtime / _VMM).unlink(missing_ok=True)
    (runtime / _PID).unlink(missing_ok=True)
    _write(runtime / _STARTED, msgspec.json.encode(intent))


def read_intent(runtime: Path) -> StartIntent | None:
    """The recorded intent; None if there is none that can be read."""
    return _read(runtime / _STARTED, StartIntent)


def write_vmm(runtime: Path, record: VmmRecord) -> None:
    """Records the VMM; `fc.pid` beside it is for people and for tools of other controllers."""
    _write(runtime / _PID, b"%d\n" % record.pid)
    _write(runtime / _VMM, msgspec.json.encode(record))


def read_vmm(runtime: Path) -> VmmRecord | None:
    """The recorded VMM; None if there is none that can be read."""
    return _read(runtime / _VMM, VmmRecord)


def exists(runtime: Path) -> bool:
    """Whether any record of a start exists, readable or not."""
    return any(os.path.lexists(runtime / name) for name in (_STARTED, _VMM))


def version_of(runtime: Path) -> str:
    """The version that the recorded VMM reported; empty if there is none."""
    known = read_vmm(runtime)
    return "" if known is None else known.version


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(procfs.read(path), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.new")
    procfs.write(aside, content)
    aside.rename(path)
