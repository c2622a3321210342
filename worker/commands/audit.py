"""`hostd audit`: reads the tenants' audit logs."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from enqueue.requests import LABEL_PATTERN
from enqueue.times import format_iso
from worker.host.records import audit_log as audit
from worker.model.layout import Layout


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines to show; by default all."""

    tenant: str | None = None
    instance: str | None = None
    since_ms: int = 0


def entries(layout: Layout, wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The lines of all tenants, sorted by time; a line that a kill has cut off is skipped."""
    logs = [_of_tenant(layout.tenant(tenant), wanted) for tenant in _tenants(layout, wanted)]
    return heapq.merge(*logs, key=lambda entry: str(entry["timestamp"]))


def _tenants(layout: Layout, wanted: Wanted) -> list[str]:
    if wanted.tenant is not None:
        return [wanted.tenant] if re.match(LABEL_PATTERN, wanted.tenant) else []
    try:
        names = sorted(one.name for one in (layout.state / "tenants").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [name for name in names if re.match(LABEL_PATTERN, name)]


def _of_tenant(directory: Path, wanted: Wanted) -> Iterator[dict[str, Any]]:
    since = format_iso(wanted.since_ms)
    for line in audit.lines(directory / "audit.log"):
        entry = _decoded(line)
        if entry is None or str(entry["timestamp"]) < since:
            continue
        if wanted.instance in (None, entry.get("instance_id")):
            yield entry


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return entry if "timestamp" in entry else None
