"""How a stand-in VMM must fail, and how its guest behaves: `simulate.json`.

The file is beside the firecracker launcher and is read before the jail closes.  A file of the same
name that is renamed into the jail's root, at any time, replaces it from the next request on.

The key `routes` maps a request to a rule, or to a list of rules of which the first that applies is
used:

    {"routes": {"PUT /machine-config": {"status": 503},
                "PUT /drives/*": {"exit": 148, "nth": 2},
                "PUT /snapshot/create": [{"hang": true, "nth": 1}, {"close": true, "after": true}]}}

A request is its method and path.  `*` at the end matches any rest; an exact path is tried first.
A rule has one of

* `status`: the request is refused with this HTTP status; `message` is the fault's text.  The body
  is Firecracker's: `{"fault_message"}`, with 503 `{"error"}` and a closed connection.
* `hang`: neither this request nor any later one is ever answered; the guest runs on.
* `close`: the connection is closed without an answer; the VMM lives.
* `exit`: the VMM ends with this exit code, before it has answered.
* `signal`: the VMM is killed by this signal's number; the init of a PID namespace cannot kill
  itself, so there it exits with 128 more.
* `delay_ms`: the request is handled normally, but this much later.

and may say when: `nth` (only the nth such request of this VMM, from 1), `after` (after the
request's effect, before its answer), `answered` (after the right answer was sent).
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

FILE_NAME = "simulate.json"
FORMATS = {12: 6, 13: 8, 14: 8, 15: 9, 16: 10, 17: 11}


class Rule(NamedTuple):
    """How the VMM treats a request."""

    status: int = 0
    message: str = "simulated: refused"
    hang: bool = False
    close: bool = False
    exit: int | None = None
    signal: int = 0
    delay_ms: float = 0.0
    nth: int = 0
    after: bool = False
    answered: bool = False


class Faults(NamedTuple):
    """The keys of `simulate.json`, all optional.

    Routes are written `PUT /snapshot/create`.  A death exits with `exit_code`; not by a signal,
    which the init of a pid namespace cannot send itself.
    """

    version: str = "1.16.1"  # what is emulated: 1.12.0 and later
    exit_code: int = 150
    die_before_socket: bool = False
    die_after_socket: bool = False
    die_in_snapshot: bool = False  # vmstate whole, memory half written
    die_after_snapshot: bool = False  # the 204 has been sent
    routes: dict[str, Any] = {}  # noqa: RUF012  never written to: which request fails how
    no_space_in_snapshot: bool = False
    slow_snapshot_ms_per_mib: float = 0.0
    slow_load_ms: float = 0.0
    ignore_ctrl_alt_del: bool = False
    shutdown_ms: float = 50.0
    tick_ms: float = 10.0
    serial: str = ""  # a file that also gets the serial port's output
    requests: str = ""  # a file that gets each API request as a line of JSON: method, path, body
    agent: bool = False  # a guest agent listens on vsock port 5252
    agent_drain_ms: float = 0.0
    agent_drain_ok: bool = True
    agent_silent: tuple[str, ...] = ()  # operations that the agent never answers
    agent_faults: tuple[str, ...] = ()  # other faults of the agent: see agent.py

    @property
    def numbers(self) -> tuple[int, int, int]:
        """The emulated version's numbers; a suffix such as `-dev` does not count."""
        major, minor, patch = self.version.partition("-")[0].split(".")
        return int(major), int(minor), int(patch)

    @property
    def minor(self) -> int:
        """The emulated version's second number."""
        return self.numbers[1]

    @property
    def snapshot_version(self) -> str:
        """The snapshot format of the emulated version (FORMATS: release notes 1.12 to 1.17)."""
        return f"{FORMATS.get(self.minor, 11)}.0.0"

    @property
    def vsock_dies_in_restore(self) -> bool:
        """1.16.0: nothing comes through a restored vsock device (fixed by #5958)."""
        return self.numbers == (1, 16, 0)

    @property
    def vsock_dies_in_bare_resume(self) -> bool:
        """1.16.0 and .1: the host cannot connect after a pause without a snapshot (#6100)."""
        return self.numbers in ((1, 16, 0), (1, 16, 1))

    def rule(self, request: str, nth: int) -> Rule | None:
        """The rule for the nth such request, or None."""
        starred = [key for key in self.routes if key[-1] == "*" and request.startswith(key[:-1])]
        for key in [request, *starred]:
            for rule in _rules(self.routes.get(key, [])):
                if rule.nth in (0, nth):
                    return rule
        return None


def _rules(value: Any) -> list[Rule]:
    return [Rule(**rule) for rule in ([value] if isinstance(value, dict) else value)]


def read_faults(path: str) -> Faults | None:
    """The faults in the file, or None without a file.

    Raises:
        ValueError: not JSON, an unknown key, or a version that is not emulated.
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
    faults = Faults(**values)
    if faults.numbers < (1, 12, 0):
        raise ValueError(f"{path}: version {faults.version} is not emulated")
    try:
        for rules in faults.routes.values():
            _rules(rules)
    except TypeError as error:
        raise ValueError(f"{path}: routes: {error}") from error
    return faults
