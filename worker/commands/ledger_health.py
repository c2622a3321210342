"""Whether the ledger is there, whole, and this machine's: what `hostd doctor` says of it."""

from __future__ import annotations

from typing import Literal

from worker.config import Config
from worker.errors import StartupError
from worker.host.records.records import DiskRecords
from worker.ledger.checks import faults
from worker.ledger.database import open_readonly
from worker.ledger.identity import LEDGER_ID, holds_requests, loss, read_marker
from worker.ledger.rebuild import instances_with_history
from worker.model.layout import Layout

HINT = "keep the damaged file; restore a backup or rebuild: docs/runbook.md#ledger"


def health(config: Config) -> tuple[Literal["ok", "fail"], str]:
    """A grade, and what was seen."""
    path, layout = config.paths.ledger, Layout(config.paths.state)
    try:
        marker = read_marker(layout)
        lost = loss(path, marker, lambda: instances_with_history(DiskRecords(layout)))
        if lost is not None:
            return "fail", lost
        if not holds_requests(path):
            return "ok", f"none at {path} yet: the first `hostd run` makes it"
        with open_readonly(path) as db:
            if wrong := faults(db):
                return "fail", f"{path} is damaged: {wrong[0]} ({len(wrong)} faults)"
            count = db.execute("SELECT COUNT(*) FROM requests").fetchone()[0]
            found = db.execute("SELECT value FROM notes WHERE key = ?", (LEDGER_ID,)).fetchone()
    except (StartupError, OSError) as error:
        return "fail", str(error)
    if marker is not None and found is not None and found[0] != marker.ledger_id:
        return "fail", f"{path} is {found[0]}; this host was served with {marker.ledger_id}"
    return "ok", f"{count} requests at {path}, whole"
