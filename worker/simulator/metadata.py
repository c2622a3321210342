"""The MMDS data store, as far as its API goes; no guest reads it here."""

from __future__ import annotations

import json
from typing import Any

from worker.simulator.machine import Machine
from worker.simulator.words import ApiFault

LIMIT_BYTES = 51_200
CONFIG = "MMMDS config error: The list of network interface IDs "


class TooLarge(ApiFault):
    """The store would outgrow its limit: status 413."""


class Metadata:
    """The store of one machine; gone with it, snapshots do not hold it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.data: Any = {}
        self.configured = False

    def read(self) -> Any:
        """The whole store."""
        self._check()
        return self.data

    def change(self, name: str, body: Any) -> None:
        """Replace, merge, or configure.

        Raises:
            ApiFault: no interface, or nothing configured before boot.
        """
        if name == "PUT mmds/config":
            self._configure(body["network_interfaces"])
            return
        self._check()
        wanted = body if name == "PUT mmds" else _merged(self.data, body)
        if len(json.dumps(wanted, separators=(",", ":"))) > LIMIT_BYTES:
            raise TooLarge("MMDS limit exceeded error: The MMDS patch request doesn't fit.")
        self.data, self.configured = wanted, True

    def _check(self) -> None:
        if self.machine.state != "Not started" and not self.configured:
            raise ApiFault("MMDS error: The MMDS data store is not initialized.")

    def _configure(self, names: list[str]) -> None:
        if not names:
            raise ApiFault(f"{CONFIG}that allow forwarding MMDS requests is empty.")
        if not set(names) <= set(self.machine.interfaces):
            raise ApiFault(
                f"{CONFIG}provided contains at least one ID that does not correspond "
                "to any existing network interface."
            )
        self.configured = True


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    kept = {k: v for k, v in old.items() if new.get(k, "") is not None}
    return kept | {k: _merged(old.get(k), v) for k, v in new.items() if v is not None}
