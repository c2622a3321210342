"""The configured programs: whether they can run, who may change them, version and digest."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host.firecracker import ownership
from worker.linux import machine
from worker.linux.machine import processor
from worker.ports import Platform

_TIMEOUT_S: Final = 5.0

# Older versions cannot ask a guest with ACPI to shut down: it ignores SendCtrlAltDel
# (Firecracker's CHANGELOG, 1.12.0, #5074).
OLDEST: Final = (1, 12)

# Device, inode, size, mtime, ctime.
Stamp = tuple[int, int, int, int, int]


class Binary:
    """One of the operator's programs; `key` is its key in the configuration's `[vmm]`.

    `pinned` is the digest that it must have, in hex; empty for any.  Version and digest are cached
    until the file's stamp changes.
    """

    def __init__(self, path: Path, key: str, pinned: str = "") -> None:
        self._path = path
        self._key = key
        self._pinned = pinned
        self._version: tuple[Stamp, str] | None = None
        self._format: tuple[Stamp, str] | None = None
        self._sha256: tuple[Stamp, str] | None = None

    def path(self) -> Path:
        """The program's path without symlinks: the jailer names the jail after it, too.

        Raises:
            Broken: `vmm_binary`, missing or not executable.
        """
        try:
            path = os.path.realpath(self._path, strict=True)
        except OSError as error:
            raise self.unusable("does not exist") from error
        if not os.path.isfile(path) or not os.access(path, os.X_OK):  # noqa: PTH113  asked often
            raise self.unusable("is not an executable file")
        return Path(path)

    def version(self) -> str:
        """The version that `--version` reports: `1.16.1`.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self.stamp()
        if self._version is None or self._version[0] != stamp:
            self._version = (stamp, self._ask("--version", r"^\w+ v(\S+)", "its version"))
        return self._version[1]

    def snapshot_format(self) -> str:
        """The format of its snapshots, as `--snapshot-version` reports it: `10.0.0`.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self.stamp()
        if self._format is None or self._format[0] != stamp:
            found = self._ask("--snapshot-version", r"^v(\S+)", "its snapshot format")
            self._format = (stamp, found)
        return self._format[1]

    def sha256(self) -> str:
        """The digest of the file, in hex.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self.stamp()
        if self._sha256 is None or self._sha256[0] != stamp:
            self._sha256 = (stamp, machine.sha256(self.path()))
        return self._sha256[1]

    def stamp(self) -> Stamp:
        """The file's identity and times: they differ once anyone has changed the file.

        Raises:
            Broken: `vmm_binary`.
        """
        seen = self.path().stat()
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns

    def trusted(self) -> Path:
        """The program's path, if only root can change the file and it has the pinned digest.

        Raises:
            Broken: `vmm_binary`.
        """
        path = self.path()
        if (fault := ownership.fault(self._path, path)) is not None:
            hint = f"only root may write it and the directories above it: chown root:root {path}"
            raise self.unusable(fault, f"{hint}; chmod go-w {path}")
        if self._pinned and (found := self.sha256()) != self._pinned:
            why = f"has the digest {found}, not that of [vmm] {self._key}_sha256"
            raise self.unusable(why, f"reinstall it, or pin the new digest: {found}")
        return path

    def unusable(self, why: str, hint: str = "") -> Broken:
        """The error for a program that hostd must not or cannot run."""
        default_hint = (
            f"set [vmm] {self._key} to the path of an executable {self._key}, "
            "or [vmm] simulate = true to try hostd without it"
        )
        what = f"[vmm] {self._key} = {self._path} {why}"
        return Broken("vmm_binary", what, hint=hint or default_hint)

    def _ask(self, flag: str, pattern: str, what: str) -> str:
        try:
            done = subprocess.run(
                [str(self.path()), flag],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self.unusable(f"does not report {what}: {error}") from error
        output = done.stdout.decode(errors="replace")
        match = re.search(pattern, output)
        if done.returncode != 0 or match is None:
            raise self.unusable(f"does not report {what}; exit code {done.returncode}: {output}")
        return match[1]


@dataclass(frozen=True, slots=True)
class Programs:
    """A `firecracker` and the `jailer` that starts it."""

    firecracker: Binary
    jailer: Binary

    def checked(self) -> tuple[Path, Path]:
        """The paths of Firecracker and jailer, which may be started.

        The files are checked on each call, and run only if they changed.

        Raises:
            Broken: `vmm_binary`; the message names the program, the hint says what to do.
        """
        firecracker, jailer = self.firecracker.trusted(), self.jailer.trusted()
        if (loader := ownership.interpreter(firecracker)) is not None:
            raise self.firecracker.unusable(
                f"is linked dynamically, and a jail has no {loader}",
                "install a static build, as Firecracker's releases are",
            )
        version, other = self.firecracker.version(), self.jailer.version()
        if version != other:
            raise self.jailer.unusable(
                f"has version {other}, but firecracker has {version}",
                "install both from one release",
            )
        if _number(version) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            why = f"has version {version}, older than {oldest}"
            raise self.firecracker.unusable(why, "install a newer release of Firecracker")
        return firecracker, jailer

    def platform(self) -> Platform:
        """What a guest's image depends on: this firecracker on this machine.

        Raises:
            Broken: `vmm_binary`.
        """
        cpu, system = processor(), os.uname()
        return Platform(
            firecracker_version=self.firecracker.version(),
            firecracker_sha256=self.firecracker.sha256(),
            snapshot_format=self.firecracker.snapshot_format(),
            architecture=system.machine,
            cpu_vendor=cpu.vendor,
            cpu_family=cpu.family,
            cpu_model=cpu.model,
            cpu_stepping=cpu.stepping,
            kernel=system.release,
            boot_id=machine.boot_id(),
        )


def _number(version: str) -> tuple[int, ...]:
    """The version's first two numbers; (0,) if it has none."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (0,) if match is None else (int(match[1]), int(match[2]))
