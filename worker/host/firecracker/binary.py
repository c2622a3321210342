"""The configured programs: that they can run, whom they obey, their versions and digests."""

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
from worker.linux.processor import processor
from worker.ports import Platform

_TIMEOUT_S: Final = 5.0

# Before it, guests with ACPI could not be asked to shut down: they did not heed SendCtrlAltDel
# (Firecracker's CHANGELOG, 1.12.0, #5074).
OLDEST: Final = (1, 12)

# Device, inode, size, and times of the last change of content and of inode.
Stamp = tuple[int, int, int, int, int]


class Binary:
    """One program of the operator's; `key` is its key in the configuration's `[vmm]`.

    `pinned` is the digest that it must have, in hex; empty for any.  What is known of the program
    is kept as long as its stamp stays.
    """

    def __init__(self, path: Path, key: str, pinned: str = "") -> None:
        self._path = path
        self._key = key
        self._pinned = pinned
        self._version: tuple[Stamp, str] | None = None
        self._format: tuple[Stamp, str] | None = None
        self._sha256: tuple[Stamp, str] | None = None

    def path(self) -> Path:
        """The program itself: the jailer, too, names the jail after what a symlink points to.

        Raises:
            Broken: `vmm_binary`, missing or not executable.
        """
        try:
            path = os.path.realpath(self._path, strict=True)
        except OSError as error:
            raise self.unusable("is not there") from error
        if not os.path.isfile(path) or not os.access(path, os.X_OK):  # noqa: PTH113  asked often
            raise self.unusable("is no executable file")
        return Path(path)

    def version(self) -> str:
        """As `--version` reports it: `1.16.1`.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self.stamp()
        if self._version is None or self._version[0] != stamp:
            said = self._ask("--version", r"^\w+ v(\S+)", "its version")
            self._version = (stamp, said)
        return self._version[1]

    def snapshot_format(self) -> str:
        """The format in which it saves guests, as `--snapshot-version` reports it: `10.0.0`.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self.stamp()
        if self._format is None or self._format[0] != stamp:
            said = self._ask("--snapshot-version", r"^v(\S+)", "its snapshot format")
            self._format = (stamp, said)
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
        """What changes when anybody changes the file.

        Raises:
            Broken: `vmm_binary`.
        """
        seen = self.path().stat()
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns

    def trusted(self) -> Path:
        """The program, if only root can change it and it is the one that is pinned.

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
        """The error for a program that may not or cannot be run."""
        way_out = (
            f"set [vmm] {self._key} to the path of an executable {self._key}, "
            "or [vmm] simulate = true to try hostd without it"
        )
        return Broken("vmm_binary", f"[vmm] {self._key} = {self._path} {why}", hint=hint or way_out)

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
            raise self.unusable(f"does not tell {what}: {error}") from error
        said = done.stdout.decode(errors="replace")
        match = re.search(pattern, said)
        if done.returncode != 0 or match is None:
            raise self.unusable(f"does not tell {what}, but exit {done.returncode}: {said}")
        return match[1]


@dataclass(frozen=True, slots=True)
class Programs:
    """A `firecracker` and the `jailer` that starts it."""

    firecracker: Binary
    jailer: Binary

    def checked(self) -> tuple[Path, Path]:
        """Firecracker and jailer, fit to be started: looked at anew each time, run only if changed.

        Raises:
            Broken: `vmm_binary`, saying which of them is at fault, and the way out.
        """
        firecracker, jailer = self.firecracker.trusted(), self.jailer.trusted()
        if (loader := ownership.interpreter(firecracker)) is not None:
            raise self.firecracker.unusable(
                f"is linked dynamically, and in a jail there is no {loader}",
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
        """What a guest saved here depends on: this firecracker on this machine.

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
    """Its first two numbers; (0,) of what has none."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return (0,) if match is None else (int(match[1]), int(match[2]))
