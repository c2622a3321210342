"""The last conversations with VMMs, kept open: a request's steps talk to one VMM in a row."""

from __future__ import annotations

import threading
from typing import Final

from worker.host.firecracker.api.client import Api
from worker.model.names import InstanceRef

_MOST: Final = 8

Key = tuple[int, int]  # pid and start time


class KeptConnections:
    """At most one a VMM, since Firecracker takes ten connections, and few in all.

    All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[InstanceRef, tuple[Key, Api]] = {}

    def take(self, ref: InstanceRef, key: Key) -> Api | None:
        """The conversation with this very process, the caller's from now on."""
        with self._lock:
            kept = self._kept.pop(ref, None)
        if kept is None or kept[0] == key:
            return None if kept is None else kept[1]
        kept[1].close()
        return None

    def keep(self, ref: InstanceRef, key: Key, api: Api) -> None:
        """The conversation may be taken again; the oldest of too many is closed."""
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
        """No conversation with the instance's VMM is open here: it is to go."""
        with self._lock:
            kept = self._kept.pop(ref, None)
        if kept is not None:
            kept[1].close()
