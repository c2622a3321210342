"""What a stand-in VMM is told to do wrong, and how its guest behaves: `simulate.json`.

The file lies beside the firecracker launcher and is read before the jail closes; a file of the
same name renamed into the jail's root, at any time, takes its place from the next request on.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

FILE_NAME = "simulate.json"
FORMATS = {12: 6, 13: 8, 14: 8, 15: 9, 16: 10, 17: 11}


class Faults(NamedTuple):
    """The keys of `simulate.json`, all optional.

    Routes are written `PUT /snapshot/create`.  A death exits with `exit_code`; not by a signal,
    which the init of a pid namespace cannot send itself.
    """

    version: str = "1.16.1"
    exit_code: int = 150
    die_before_socket: bool = False
    die_after_socket: bool = False
    die_in_snapshot: bool = False  # vmstate whole, memory half written
    die_after_snapshot: bool = False  # the 204 has been sent
    die_on: tuple[str, ...] = ()  # routes: die before answering
    hang: tuple[str, ...] = ()  # routes: never answer, nor any later request
    fail: dict[str, str] = {}  # noqa: RUF012 - NamedTuple defaults are never written to
    no_space_in_snapshot: bool = False
    slow_snapshot_ms_per_mib: float = 0.0
    slow_load_ms: float = 0.0
    ignore_ctrl_alt_del: bool = False
    shutdown_ms: float = 50.0
    tick_ms: float = 10.0
    agent: bool = False  # a guest agent listens on vsock port 5252
    agent_drain_ms: float = 0.0
    agent_drain_ok: bool = True
    agent_silent: tuple[str, ...] = ()  # operations that the agent never answers

    @property
    def minor(self) -> int:
        """The emulated version's second number."""
        return int(self.version.split(".")[1])

    @property
    def snapshot_version(self) -> str:
        """The snapshot format of the emulated version (FORMATS: release notes 1.12 to 1.17)."""
        return f"{FORMATS.get(self.minor, 11)}.0.0"


def read_faults(path: str) -> Faults | None:
    """The faults in the file; None if there is none.

    Raises:
        ValueError: not JSON, or a key that no fault has.
    """
    try:
        with open(path, "rb") as file:
            keys = json.load(file)
    except OSError:
        return None
    unknown = set(keys) - set(Faults._fields)
    if unknown:
        raise ValueError(f"{path}: unknown keys {sorted(unknown)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in keys.items()}
    return Faults(**values)
