"""Append-only logs of clients, the killer and VMMs: one JSON object per line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Log:
    """One process's log; the kernel has a line when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, event: str, **facts: object) -> None:
        """Writes one line, with the time."""
        line = {"at_s": time.monotonic(), "event": event, **facts}
        self._file.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Closes the log."""
        self._file.close()


def lines(path: Path) -> list[Line]:
    """All lines of a log; an empty list if the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]
