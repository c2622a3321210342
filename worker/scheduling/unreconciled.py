"""Which instances hostd has not checked since it started, or since their VMM ended."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from enqueue.requests import InstanceId


@dataclass(frozen=True, slots=True)
class Why:
    """Why an instance must be reconciled: the host `rebooted`, or its VMM `ended` (in words)."""

    rebooted: bool = False
    ended: str | None = None


class Unreconciled:
    """The instances that must be reconciled.  Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._why: dict[InstanceId, Why] = {}

    def add(self, instances: Iterable[InstanceId], why: Why) -> None:
        """Adds instances; reasons that are known already are kept."""
        with self._lock:
            for instance in instances:
                known = self._why.get(instance, Why())
                self._why[instance] = Why(known.rebooted or why.rebooted, why.ended or known.ended)

    def reason(self, instance: InstanceId) -> Why | None:
        """Why the instance must be reconciled; None if it need not."""
        with self._lock:
            return self._why.get(instance)

    def done(self, instance: InstanceId) -> None:
        """Removes an instance that has been reconciled."""
        with self._lock:
            self._why.pop(instance, None)

    def all(self) -> frozenset[InstanceId]:
        """All instances that must be reconciled."""
        with self._lock:
            return frozenset(self._why)

    def __contains__(self, instance: InstanceId) -> bool:
        return self.reason(instance) is not None

    def __len__(self) -> int:
        with self._lock:
            return len(self._why)
