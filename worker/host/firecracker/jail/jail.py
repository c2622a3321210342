"""The directory that the jailer makes a VMM's root: `<base>/<exec name>/<id>/root`.

The jailer fails on what an earlier start left in it and removes nothing, so each start gets a jail
of its own.  It is built under another name and renamed, with a manifest of what was put in: a
jail without one, or in which a VMM has been, is stale.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from worker.host.firecracker.jail.files import JailFile, install
from worker.linux import mounts, procfs
from worker.ports import VmSpec

_BUILDING: Final = ".building"
# What the jailer and Firecracker make (jailer/src/env.rs, jailer/src/chroot.rs).
_TRACES: Final = ("dev", "run", "old_root", "v.sock")

Inode = tuple[int, int]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a jail was built from; `entries`: name to (device, inode) of source and of entry."""

    spec: VmSpec
    entries: dict[str, tuple[Inode, Inode]]


@dataclass(frozen=True, slots=True)
class Jail:
    """Where one instance's jail lies.  `base` holds nothing else."""

    base: Path
    exec_name: str
    instance_id: str

    @property
    def home(self) -> Path:
        """The jailer's directory for this id."""
        return self.base / self.exec_name / self.instance_id

    @property
    def root(self) -> Path:
        """What the VMM sees as `/`; from the jailer's start on it belongs to the VMM's uid."""
        return self.home / "root"

    @property
    def pid_file(self) -> Path:
        """Where the jailer writes the VMM's pid, in the jailer's pid namespace."""
        return self.root / f"{self.exec_name}.pid"

    def used(self) -> bool:
        """Whether a jailer or a VMM has been in it."""
        traces = (*_TRACES, self.exec_name, f"{self.exec_name}.pid")
        return any(os.path.lexists(self.root / trace) for trace in traces)

    def spec(self) -> VmSpec | None:
        """What the jail was built from; None without a whole jail."""
        manifest = self._manifest()
        return None if manifest is None else manifest.spec

    def holds(self, files: tuple[JailFile, ...], spec: VmSpec) -> bool:
        """Whether the jail is whole, unused, built from this spec, and holds just these files."""
        manifest = self._manifest()
        if manifest is None or manifest.spec != spec or self.used():
            return False
        if manifest.entries.keys() != {file.name for file in files}:
            return False
        return all(_matches(self.root, file, manifest.entries[file.name]) for file in files)

    def shows(self, files: tuple[JailFile, ...]) -> bool:
        """Whether what the jail was built with is, for each of these, what the host has now."""
        manifest = self._manifest()
        known = {} if manifest is None else manifest.entries
        return all(
            file.name in known and _matches(self.root, file, known[file.name]) for file in files
        )

    def build(self, files: tuple[JailFile, ...], spec: VmSpec) -> None:
        """The jail stands, fresh, in place of whatever was below `base`.

        Raises:
            Conflict: `missing_file`.
            OSError: the kernel refused.
        """
        remove(self.base)
        building = self.base / _BUILDING
        root = building / "root"
        self.base.mkdir(mode=0o700, parents=True)
        root.mkdir(mode=0o700, parents=True)
        entries = {}
        for file in files:
            target = root / file.name
            if target.parent != root:
                target.parent.mkdir(exist_ok=True)
                target.parent.chmod(0o755)  # whatever the umask: the VMM must pass
            source = install(file, target, spec.uid)
            entries[file.name] = (_inode(source), _inode(target))
        manifest = Manifest(spec=spec, entries=entries)
        procfs.write(building / "jail.json", encode(manifest))
        self.home.parent.mkdir(mode=0o700)
        building.rename(self.home)

    def _manifest(self) -> Manifest | None:
        try:
            return decode(procfs.read(self.home / "jail.json"))
        except (FileNotFoundError, msgspec.DecodeError):
            return None


def encode(manifest: Manifest) -> bytes:
    """The JSON of a manifest."""
    return msgspec.json.encode(manifest, enc_hook=str)


def decode(raw: bytes) -> Manifest:
    """The manifest in `raw`.

    Raises:
        msgspec.DecodeError: it is none.
    """
    # `Path` is the one type here that msgspec leaves to its hooks.
    return msgspec.json.decode(raw, type=Manifest, dec_hook=lambda kind, text: kind(text))


def find_jail(base: Path, instance_id: str) -> Jail | None:
    """The jail below `base`, whatever its VMM's program was called; None if there is none.

    The name differs from the configured one after an upgrade to a binary of another name.
    """
    for home in _homes(base, instance_id):
        return Jail(base, home.parent.name, instance_id)
    return None


def jail_exists(base: Path, instance_id: str) -> bool:
    """Whether a jail of that instance is below `base`, whole or in the making."""
    if os.path.lexists(base / _BUILDING):
        return True
    # The manifest may be gone, as where a removal was killed; the jailer's place for it is not.
    return any(True for _ in _homes(base, instance_id))


def remove(base: Path) -> None:
    """Nothing is left of `base`, nor any mount below it."""
    if not os.path.lexists(base):  # so nothing is mounted there
        return
    for point in mounts.below(base):
        mounts.unmount(point)
    # rmtree works by directory descriptors and never follows a symlink that a VMM made.
    while os.path.lexists(base):
        with suppress(FileNotFoundError):  # something in it went by itself: again from the top
            shutil.rmtree(base)


def _homes(base: Path, instance_id: str) -> Iterator[Path]:
    try:
        names = sorted(entry.name for entry in base.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name != _BUILDING and (base / name / instance_id).is_dir():
            yield base / name / instance_id


def _matches(root: Path, file: JailFile, recorded: tuple[Inode, Inode]) -> bool:
    # After a reboot a bind-mounted disk shows as the empty file that it was mounted on, and a
    # block device's number may be another tenant's disk.
    try:
        source, entry = file.current_path.stat(), (root / file.name).lstat()
    except FileNotFoundError:
        return False
    found = (source.st_dev, source.st_ino), (entry.st_dev, entry.st_ino)
    return found == recorded and source.st_rdev == entry.st_rdev


def _inode(path: Path) -> Inode:
    seen = path.stat()
    return seen.st_dev, seen.st_ino
