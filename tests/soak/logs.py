"""Append-only logs of one JSON object a line, as clients, the killer and VMMs write them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

Line = dict[str, Any]


class Log:
    """One process's log; a line is in the kernel's hands when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, event: str, **facts: object) -> None:
        """One line, with the time."""
        line = {"at_s": time.monotonic(), "event": event, **facts}
        self._file.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()


def lines(path: Path) -> list[Line]:
    """All lines of a log; of one that nobody has written, none."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().splitlines()]
