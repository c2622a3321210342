"""The VMM's log and metrics files."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from worker.simulator.machine import Machine
from worker.simulator.words import ApiFault, refused


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


class Journal:
    """Log lines go to standard output until a file is given."""

    def __init__(self, name: str) -> None:
        self.name, self.log, self.metrics = name, 1, -1
        self.silent = False

    def write(self, text: str, *, thread: str = "main") -> None:
        """One log line."""
        seconds, rest = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line = f"{stamp}.{rest:09d} [{self.name}:{thread}] {text}\n"
        if not self.silent:
            try:
                os.write(self.log, line.encode())
            except OSError:
                return  # a log nobody reads never stops a VMM

    def configure(self, body: dict[str, Any]) -> None:
        """Another file or level (only `Off` differs from the rest).

        Raises:
            ApiFault: the file cannot be opened.
        """
        if "log_path" in body:
            with refused("Logger error: Failed to open target file"):
                self.log = _open(body["log_path"])
        self.silent = body.get("level", "info").lower() == "off"

    def open_metrics(self, path: str) -> None:
        """Metrics are written to the file, once.

        Raises:
            ApiFault: it cannot be opened, or one is open already.
        """
        what = "Metrics error: Cannot initialize the metrics system due to bad user input"
        if self.metrics >= 0:
            raise ApiFault(f"{what}: Reinitialization of metrics not allowed.")
        with refused(what):
            self.metrics = _open(path)

    def flush_metrics(self, machine: Machine) -> None:
        """A line of metrics is in the file, if there is one."""
        if self.metrics >= 0:
            counter = machine.guest.counter if machine.guest else 0
            line = {
                "utc_timestamp_ms": time.time_ns() // 1_000_000,
                "simulator": {"guest_counter": counter},
            }
            os.write(self.metrics, json.dumps(line).encode() + b"\n")
