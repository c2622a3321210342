"""The VMM's log."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

from worker.simulator.errors import api_errors

FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC


class Journal:
    """Writes log lines to standard output until a file is given."""

    def __init__(self, name: str) -> None:
        self.name, self.log = name, 1

    def write(self, text: str, *, thread: str = "main") -> None:
        """Writes one log line."""
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line = f"{stamp}.{rest:09d} [{self.name}:{thread}] {text}\n"
        with suppress(OSError):  # a full log never stops a VMM
            os.write(self.log, line.encode())

    def configure(self, body: dict[str, Any]) -> None:
        """Logs to another file; the level is ignored.

        Raises:
            ApiFault: the file cannot be opened.
        """
        if "log_path" in body:
            with api_errors("Logger error: Failed to open target file"):
                self.log = os.open(body["log_path"], FLAGS, 0o644)
