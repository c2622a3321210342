"""FIFO by conflict: a request starts when no earlier unfinished one conflicts with it.

Pure.  Each key has a queue.  An item joins the queues of all its keys at once, so the order in
every queue is the same and no two items can wait for each other.  Two items conflict on a key
unless both share it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar, assert_never

from enqueue.requests import InstanceRequest, NetworkRequest, Ping, Request

T = TypeVar("T", bound=Hashable)
Key = tuple[str, str]
SHARED = True
EXCLUSIVE = False


def keys_of(request: Request) -> dict[Key, bool]:
    """The keys that a request holds while unfinished, and whether it shares each."""
    if isinstance(request, InstanceRequest):
        return {("instance", request.instance_id): EXCLUSIVE, ("tenant", request.tenant_id): SHARED}
    if isinstance(request, NetworkRequest):
        net_id = str(request.net.tenant_net_id)
        return {("tenant", request.tenant_id): EXCLUSIVE, ("net", net_id): EXCLUSIVE}
    if isinstance(request, Ping):
        return {}
    assert_never(request)


@dataclass(slots=True)
class _Queue(Generic[T]):
    """One key: who holds it, and who waits, in order."""

    holders: dict[T, bool] = field(default_factory=dict)
    waiting: deque[tuple[T, bool]] = field(default_factory=deque)

    def promote(self) -> list[T]:
        """Grants the key to the items at the head that can hold it now, and returns them."""
        granted = []
        while self.waiting:
            item, shared = self.waiting[0]
            if self.holders and not (shared and all(self.holders.values())):
                break
            self.waiting.popleft()
            self.holders[item] = shared
            granted.append(item)
            if not shared:
                break
        return granted


@dataclass(slots=True)
class Turns(Generic[T]):
    """Which items may run and which wait.  Not thread-safe."""

    _queues: dict[Key, _Queue[T]] = field(default_factory=dict)
    _missing: dict[T, int] = field(default_factory=dict)
    _keys: dict[T, Mapping[Key, bool]] = field(default_factory=dict)

    def admit(self, item: T, keys: Mapping[Key, bool]) -> bool:
        """Adds `item` behind all others; returns whether it may start at once."""
        self._keys[item] = keys
        self._missing[item] = len(keys)
        for key, shared in keys.items():
            self._queues.setdefault(key, _Queue()).waiting.append((item, shared))
        for key in keys:
            self._grant(key)
        return self._missing[item] == 0

    def finish(self, item: T) -> list[T]:
        """Removes `item`, whether it ran or waited; returns the items that may start now."""
        ready: list[T] = []
        keys = self._keys.pop(item)
        del self._missing[item]
        for key, shared in keys.items():
            queue = self._queues[key]
            if queue.holders.pop(item, None) is None:
                queue.waiting.remove((item, shared))
            ready.extend(self._grant(key))
            if not queue.holders and not queue.waiting:
                del self._queues[key]
        return ready

    def release(self, item: T, key: Key) -> list[T]:
        """Releases one key of `item`, which has its turn; returns the items that may start now."""
        keys = self._keys[item]
        self._keys[item] = {other: shared for other, shared in keys.items() if other != key}
        queue = self._queues[key]
        del queue.holders[item]
        ready = self._grant(key)
        if not queue.holders and not queue.waiting:
            del self._queues[key]
        return ready

    def may_run(self, item: T) -> bool:
        """Whether `item` holds all its keys."""
        return self._missing[item] == 0

    def _grant(self, key: Key) -> list[T]:
        ready = []
        for item in self._queues[key].promote():
            self._missing[item] -= 1
            if self._missing[item] == 0:
                ready.append(item)
        return ready
