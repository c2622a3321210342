"""Whether the ledger is there, whole, and this machine's: what `hostd doctor` says of it."""

from __future__ import annotations

from typing import Literal

from worker.config import Config
from worker.errors import StartupError
from worker.host.records.records import DiskRecords
from worker.ledger.checks import faults
from worker.ledger.identity import LEDGER_ID, loss, read_marker
from worker.ledger.readonly import holds_requests, open_readonly
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
        with open_readonly(path) as ledger:
            if wrong := faults(ledger):
                return "fail", f"{path} is damaged: {wrong[0]} ({len(wrong)} faults)"
            count = sum(ledger.requests.count_by("state").values())
            found = ledger.meta.get(LEDGER_ID)
    except (StartupError, OSError) as error:
        return "fail", str(error)
    if marker is not None and found not in (None, marker.ledger_id):
        return "fail", f"{path} is {found}; this host was served with {marker.ledger_id}"
    return "ok", f"{count} requests at {path}, whole"
