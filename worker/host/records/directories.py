"""Finds instances' directories below the state directory, with or without a document."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worker.model.layout import Layout
from worker.model.names import InstanceRef


def instance_directories(layout: Layout) -> Iterator[InstanceRef]:
    """Every instance that has a directory; directories with other names are skipped."""
    for tenant in _directories(layout.state / "tenants"):
        for pool in _directories(Path(tenant, "pools")):
            for instance in _directories(Path(pool, "instances")):
                ref = layout.owner(Path(instance))
                if ref is not None:
                    yield ref


def _directories(directory: Path) -> list[str]:
    """Paths of the directories in it, without symlinks, which may lead anywhere."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
