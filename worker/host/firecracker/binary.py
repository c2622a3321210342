"""The configured programs: that they can run, their version and their digest."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from worker.errors import Broken
from worker.host import machine

_TIMEOUT_S: Final = 5.0

Stamp = tuple[int, int, int]


class Binary:
    """One program of the operator's; `key` is its key in the configuration's `[vmm]`.

    What is known of it is kept as long as its inode, size and modification time stay.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._version: tuple[Stamp, str] | None = None
        self._sha256: tuple[Stamp, str] | None = None

    def path(self) -> Path:
        """The program itself: the jailer, too, names the jail after what a symlink points to.

        Raises:
            Broken: `vmm_binary`, missing or not executable.
        """
        try:
            path = self._path.resolve(strict=True)
        except OSError as error:
            raise self._unusable("is not there") from error
        if not path.is_file() or not os.access(path, os.X_OK):
            raise self._unusable("is no executable file")
        return path

    def version(self) -> str:
        """As `--version` reports it: `1.16.1`.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self._stamp()
        if self._version is None or self._version[0] != stamp:
            self._version = (stamp, self._ask_version())
        return self._version[1]

    def sha256(self) -> str:
        """The digest of the file, in hex.

        Raises:
            Broken: `vmm_binary`.
        """
        stamp = self._stamp()
        if self._sha256 is None or self._sha256[0] != stamp:
            self._sha256 = (stamp, machine.sha256(self.path()))
        return self._sha256[1]

    def _stamp(self) -> Stamp:
        seen = self.path().stat()
        return seen.st_mtime_ns, seen.st_size, seen.st_ino

    def _ask_version(self) -> str:
        try:
            done = subprocess.run(
                [str(self.path()), "--version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._unusable(f"does not tell its version: {error}") from error
        said = done.stdout.decode(errors="replace")
        match = re.search(r"^\w+ v(\S+)", said)
        if done.returncode != 0 or match is None:
            raise self._unusable(f"does not tell its version, but exit {done.returncode}: {said}")
        return match[1]

    def _unusable(self, why: str) -> Broken:
        return Broken(
            "vmm_binary",
            f"{self._path} {why}",
            hint=f"set [vmm] {self._key} to the path of an executable {self._key}",
        )
