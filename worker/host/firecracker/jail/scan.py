"""Instances' directories below the state directory, whether or not a document is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from worker.host.firecracker import vmm_record
from worker.host.firecracker.jail.jail import jail_exists
from worker.linux.mountinfo import unescaped
from worker.model.names import InstanceRef, Layout


def instance_directories(layout: Layout) -> Iterator[InstanceRef]:
    """Every instance that has a directory; what has no name of hostd's form is passed over."""
    for tenant in _directories(layout.state / "tenants"):
        for pool in _directories(Path(tenant, "pools")):
            for instance in _directories(Path(pool, "instances")):
                ref = layout.owner(Path(instance))
                if ref is not None:
                    yield ref


def jails_in(layout: Layout) -> frozenset[InstanceRef]:
    """Every instance with anything of a jail's, or of a start's, in its directory."""
    return frozenset(
        ref
        for ref in instance_directories(layout)
        if jail_exists(layout.jail_base(ref), ref.instance_id)
        or vmm_record.exists(layout.runtime(ref))
    )


def mounts_in_jails(layout: Layout) -> frozenset[InstanceRef]:
    """Every instance with a mount below its jail's base, in this mount namespace."""
    top = f"{layout.state.resolve()}/"
    real = Layout(layout.state.resolve())
    found = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = unescaped(line.split(" ", 5)[4])
        if not point.startswith(top):
            continue
        ref = real.owner(Path(point))
        if ref is not None and real.jail_base(ref) in Path(point).parents:
            found.add(ref)
    return frozenset(found)


def _directories(directory: Path) -> list[str]:
    """Paths of the directories in it, symlinks apart: those may lead anywhere."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
