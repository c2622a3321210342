"""The directory that the jailer makes a VMM's root: `<base>/<exec name>/<id>/root`.

The jailer fails on files that an earlier start left and removes nothing, so each start gets a new
jail.  It is built under another name and then renamed, with a manifest of its files: a jail
without a manifest, or one that a VMM has run in, is stale.
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
    """What a jail was built from; `entries`: name to the inodes of the source and of the entry."""

    spec: VmSpec
    entries: dict[str, tuple[Inode, Inode]]


@dataclass(frozen=True, slots=True)
class Jail:
    """The paths of one instance's jail.  `base` contains nothing else."""

    base: Path
    exec_name: str
    instance_id: str

    @property
    def home(self) -> Path:
        """The jailer's directory for this id."""
        return self.base / self.exec_name / self.instance_id

    @property
    def root(self) -> Path:
        """The VMM's `/`; once the jailer has started, it belongs to the VMM's uid."""
        return self.home / "root"

    @property
    def pid_file(self) -> Path:
        """Where the jailer writes the VMM's pid, in the jailer's pid namespace."""
        return self.root / f"{self.exec_name}.pid"

    def used(self) -> bool:
        """Whether a jailer or a VMM has run in it."""
        traces = (*_TRACES, self.exec_name, f"{self.exec_name}.pid")
        return any(os.path.lexists(self.root / trace) for trace in traces)

    def spec(self) -> VmSpec | None:
        """The spec that the jail was built from; None if there is no complete jail."""
        manifest = self._manifest()
        return None if manifest is None else manifest.spec

    def is_fresh(self, files: tuple[JailFile, ...], spec: VmSpec) -> bool:
        """Whether the jail is complete, unused, built from this spec, with exactly these files."""
        manifest = self._manifest()
        if manifest is None or manifest.spec != spec or self.used():
            return False
        if manifest.entries.keys() != {file.name for file in files}:
            return False
        return all(_matches(self.root, file, manifest.entries[file.name]) for file in files)

    def has_current(self, files: tuple[JailFile, ...]) -> bool:
        """Whether the jail was built with these files as the host has them now."""
        manifest = self._manifest()
        known = {} if manifest is None else manifest.entries
        return all(
            file.name in known and _matches(self.root, file, known[file.name]) for file in files
        )

    def build(self, files: tuple[JailFile, ...], spec: VmSpec) -> None:
        """Replaces everything below `base` by a fresh jail.

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
                target.parent.chmod(0o755)  # with any umask: the VMM must be able to pass
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
        msgspec.DecodeError: it is not a manifest.
    """
    # `Path` is the only type here that msgspec cannot decode itself.
    return msgspec.json.decode(raw, type=Manifest, dec_hook=lambda kind, text: kind(text))


def find_jail(base: Path, instance_id: str) -> Jail | None:
    """The jail below `base`, for any name of the VMM's program; None if there is none.

    After an upgrade to a binary of another name it is not the configured one.
    """
    for home in _homes(base, instance_id):
        return Jail(base, home.parent.name, instance_id)
    return None


def jail_exists(base: Path, instance_id: str) -> bool:
    """Whether a jail of that instance is below `base`, complete or not."""
    if os.path.lexists(base / _BUILDING):
        return True
    # After a killed removal the manifest may be gone, but the jailer's directory still exists.
    return any(True for _ in _homes(base, instance_id))


def remove(base: Path) -> None:
    """Removes `base` with all files and mounts below it."""
    if not os.path.lexists(base):  # so nothing is mounted there
        return
    for point in mounts.below(base):
        mounts.unmount(point)
    # rmtree works by directory descriptors and never follows a symlink that a VMM made.
    while os.path.lexists(base):
        with suppress(FileNotFoundError):  # a file in it vanished meanwhile: start again
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
    # After a reboot a bind-mounted disk is again the empty file that it was mounted on, and a
    # block device's number may belong to another tenant's disk.
    try:
        source, entry = file.current_path.stat(), (root / file.name).lstat()
    except FileNotFoundError:
        return False
    found = (source.st_dev, source.st_ino), (entry.st_dev, entry.st_ino)
    return found == recorded and source.st_rdev == entry.st_rdev


def _inode(path: Path) -> Inode:
    seen = path.stat()
    return seen.st_dev, seen.st_ino
