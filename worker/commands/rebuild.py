"""`hostd recover --rebuild-ledger`: builds a new ledger from what is on the host."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from enqueue.times import format_iso
from worker.config import Config
from worker.errors import HostdError, StartupError
from worker.ledger.checks import faults
from worker.ledger.identity import (
    LEDGER_ID,
    STARTS,
    LedgerMarker,
    read_marker,
    reset,
    write_marker,
)
from worker.ledger.ledger import Ledger
from worker.ledger.readonly import holds_requests, open_readonly
from worker.linux import files
from worker.model.layout import Layout
from worker.ports import Host
from worker.scheduling.locks import host_lock
from worker.wiring import build_host


def rebuild(config: Config, *, force: bool) -> dict[str, Any]:
    """Counts of what the new ledger holds, and the path of the old one.

    Raises:
        StartupError: hostd runs, the ledger is whole (and not `force`), or a part cannot be opened.
    """
    config.paths.runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
    with ExitStack() as opened:
        opened.enter_context(host_lock(config.paths.runtime))
        if not force and is_whole(config.paths.ledger):
            raise StartupError(
                f"ledger {config.paths.ledger} is whole: it needs no rebuild; to replace it "
                "anyway, add --force"
            )
        host = build_host(config, opened)
        try:
            return rebuilt(
                config.paths.ledger,
                host,
                Layout(config.paths.state),
                now_ms=int(time.time() * 1000),
            )
        except HostdError as error:
            raise StartupError(f"{error}; {error.hint}") from error


def is_whole(path: Path) -> bool:
    """Whether the ledger exists and passes all checks."""
    try:
        if not holds_requests(path):
            return False
        with open_readonly(path) as ledger:
            return not faults(ledger)
    except StartupError:
        return False


def rebuilt(path: Path, host: Host, layout: Layout, *, now_ms: int) -> dict[str, Any]:
    """A new ledger at `path` with all reservations of the host; the old one is kept beside it.

    A kill before the end leaves no ledger, and `hostd run` refuses to start: run the command again.

    Raises:
        StartupError: a file cannot be written.
        HostdError: the host or the disk does not answer.
    """
    new = path.with_name(f"{path.name}.rebuilding")
    _remove(new)
    try:
        marker = read_marker(layout)
    except StartupError:
        marker = None
    ledger = Ledger.open(new)
    try:
        found = _filled(ledger, host, marker, now_ms)
        aside = _moved_aside(path, now_ms)
        write_marker(ledger, layout)
    finally:
        ledger.close()
    files.rename(new, path)
    return {"ledger": str(path), "moved_aside": aside, "lost_before_ms": now_ms} | found


def _filled(ledger: Ledger, host: Host, marker: LedgerMarker | None, now_ms: int) -> dict[str, Any]:
    with ledger.transaction():
        ledger.meta.set(LEDGER_ID, uuid.uuid4().hex)
        ledger.meta.set(STARTS, str(marker.starts if marker else 0))
        return dict(msgspec.to_builtins(reset(ledger, host, marker, now_ms=now_ms)))


def _moved_aside(path: Path, now_ms: int) -> str | None:
    """The old ledger's new path.  Its file is moved first: SQLite never reads a WAL without it."""
    stamp = format_iso(now_ms).replace("-", "").replace(":", "")
    target = path.with_name(f"{path.name}.damaged-{stamp}")
    moved = False
    for end in ("", "-wal", "-shm"):
        source = Path(f"{path}{end}")
        if source.exists():
            files.rename(source, Path(f"{target}{end}"))
            moved = True
    return str(target) if moved else None


def _remove(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        files.remove(Path(f"{path}{end}"))
