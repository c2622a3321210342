"""Removes a sandbox's control groups, mounts and directory, also after its owner was killed."""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from worker.linux import mounts

GROUPS_TIMEOUT_S: Final = 10.0


def control_groups(parent: str) -> list[Path]:
    """The directories of the group `parent` in every hierarchy, innermost first."""
    hierarchies = [
        Path(line.split(" ")[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if line.partition(" - ")[2].startswith(("cgroup ", "cgroup2 "))
    ]
    tops = [mount / parent for mount in hierarchies if (mount / parent).is_dir()]
    found = {path for top in tops for path in (top, *top.rglob("*")) if path.is_dir()}
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def remove(base: Path, *, parent: str) -> list[str]:
    """Kills what runs in the group `parent`, removes it and `base`; what was removed."""
    removed = _remove_groups(parent)
    if base.exists():
        for point in mounts.below(base):
            mounts.unmount(point)
            removed.append(f"mount {point}")
        shutil.rmtree(base)
        removed.append(f"directory {base}")
    return removed


def _remove_groups(parent: str) -> list[str]:
    removed = []
    deadline = time.monotonic() + GROUPS_TIMEOUT_S
    for group in control_groups(parent):
        while group.exists() and time.monotonic() < deadline:
            _kill_members(group)
            try:
                group.rmdir()
                removed.append(f"control group {group}")
            except OSError:
                time.sleep(0.01)
    return removed


def _kill_members(group: Path) -> None:
    with suppress(OSError):  # the group went
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
