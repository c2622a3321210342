"""Finds jails, and mounts in jails, below the state directory."""

from __future__ import annotations

from pathlib import Path

from worker.host.firecracker import vmm_record
from worker.host.firecracker.jail.jail import jail_exists
from worker.host.records.directories import instance_directories
from worker.linux.mounts import unescaped
from worker.model.layout import Layout
from worker.model.names import InstanceRef


def jails_in(layout: Layout) -> frozenset[InstanceRef]:
    """Every instance with a jail, or a record of a start, in its directory."""
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
