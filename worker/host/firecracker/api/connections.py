"""Keeps the last connections to VMMs open: the steps of a request call one VMM in a row."""

from __future__ import annotations

import threading
from typing import Final

from worker.host.firecracker.api.client import Api
from worker.model.names import InstanceRef

_MOST: Final = 8

Key = tuple[int, int]  # pid and start time


class KeptConnections:
    """At most one connection per VMM, since Firecracker accepts ten, and at most eight in all.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[InstanceRef, tuple[Key, Api]] = {}

    def take(self, ref: InstanceRef, key: Key) -> Api | None:
        """The kept connection to this very process, which the caller then owns; None if none."""
        with self._lock:
            kept = self._kept.pop(ref, None)
        if kept is None or kept[0] == key:
            return None if kept is None else kept[1]
        kept[1].close()
        return None

    def keep(self, ref: InstanceRef, key: Key, api: Api) -> None:
        """Keeps the connection for the next `take`; closes the oldest if there are too many."""
        with self._lock:
            surplus = [self._kept.pop(ref)] if ref in self._kept else []
            self._kept[ref] = key, api
            while len(self._kept) > _MOST:
                surplus.append(self._kept.pop(next(iter(self._kept))))
        for _, old in surplus:
            old.close()

    def __del__(self) -> None:
        for _, api in self._kept.values():
            api.close()

    def drop(self, ref: InstanceRef) -> None:
        """Closes the kept connection to the instance's VMM, which is about to end."""
        with self._lock:
            kept = self._kept.pop(ref, None)
        if kept is not None:
            kept[1].close()
