"""A counting fuse: it blows before or after the n-th effect, as SIGKILL would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from worker.ledger.database import Database
from worker.ports import Host

T = TypeVar("T")

EFFECTS = {
    "links": {"put_bridge", "put_tap", "delete", "enable_forwarding"},
    "firewall": {"put", "remove", "put_guest", "remove_guest"},
    "cgroups": {"put", "kill", "remove"},
    "disks": {
        "begin", "make", "abandon", "copy", "remove", "wipe", "make_crypt", "open_crypt",
        "close_crypt",
    },
    "records": {"put_instance", "audit"},
    "vmm": {
        "build_jail", "remove_jail", "launch", "spawn", "boot", "pause", "resume", "snapshot",
        "load", "ask_to_stop", "kill", "reserve_snapshot", "release_snapshot",
    },
    "images": {
        "reserve", "release", "seal", "publish", "make_usable", "consume", "discard", "tidy",
    },
    "agents": {"drain", "notify_resumed", "ready"},
}  # fmt: skip


class KilledError(BaseException):
    """Represents SIGKILL: nothing in hostd may catch it and continue."""


@dataclass
class Fuse:
    """Counts effects; blows at number `at`, or makes it fail with `error`."""

    at: int | None = None
    after: bool = False
    error: Exception | None = None
    deadly: str | None = None  # an effect that kills each time before it takes place
    seen: list[str] = field(default_factory=list)

    @contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """One effect takes place inside.  Telling is no effect on the machine: it never fails."""
        if self.error is not None and name == "publish":
            yield
            return
        self.seen.append(name)
        mine = len(self.seen) == self.at
        if name == self.deadly or (mine and not self.after):
            raise self.error or KilledError(name)
        yield
        if mine:
            raise self.error or KilledError(name)

    def rearm(self, at: int | None = None, *, after: bool = False) -> None:
        """Starts counting again."""
        self.at, self.after, self.error, self.seen = at, after, None, []


class _Fused:
    """A port whose effects go through the fuse."""

    def __init__(self, name: str, port: object, fuse: Fuse) -> None:
        self._name, self._port, self._fuse = name, port, fuse

    def __getattr__(self, method: str) -> Any:
        real: Callable[..., Any] = getattr(self._port, method)
        if method not in EFFECTS[self._name]:
            return real

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self._fuse.effect(f"{self._name}.{method}"):
                return real(*args, **kwargs)

        return counted


def fused(host: Host, fuse: Fuse) -> Host:
    """The machine, with the fuse between it and the steps."""
    ports = {name: _Fused(name, getattr(host, name), fuse) for name in EFFECTS}
    return Host(**cast("dict[str, Any]", ports))


class FusedDatabase(Database):
    """The ledger's real database; each durable commit is an effect."""

    fuse: Fuse | None = None

    def _commit(self) -> None:
        if self.fuse is None:
            super()._commit()
            return
        with self.fuse.effect("ledger.commit"):
            super()._commit()
