"""When each orphan was first seen in the current boot; one that a sweep misses starts again.

The file is in the runtime directory, so that the operator's command and a restarted hostd continue
from the last sweep.  Seconds are of CLOCK_MONOTONIC, which all processes of a boot share.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from worker.config import Config
from worker.linux import files, safe_open
from worker.sweep.orphans import Orphan

_LIMIT_BYTES: Final = 16 << 20
_SEPARATOR: Final = " "  # no kind has one


class FirstSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The file: when each orphan was first seen, by kind and name; `at_s` is the last sweep."""

    boot_id: str
    at_s: float = 0.0
    first_s: dict[str, float] = {}


class SweepHistory:
    """What the last sweep saw."""

    def __init__(self, path: Path, *, boot_id: str, patience_s: float) -> None:
        """Loads what an earlier sweep of this boot wrote, unless older than `patience_s`."""
        self._path = path
        self._patience_s = patience_s
        self._seen = FirstSeen(boot_id=boot_id)
        with suppress(OSError, ValueError):
            raw = safe_open.read(path, limit_bytes=_LIMIT_BYTES)
            known = msgspec.json.decode(raw, type=FirstSeen) if raw is not None else self._seen
            if known.boot_id == boot_id:
                self._seen = known

    @classmethod
    def of(cls, config: Config, *, boot_id: str) -> SweepHistory:
        """The history of a host.  A pause longer than three sweeps, or the grace, resets it."""
        patience_s = max(3 * config.sweep.interval_s, config.sweep.grace_s)
        return cls(config.paths.runtime / "sweep.json", boot_id=boot_id, patience_s=patience_s)

    def first_s(self, orphan: Orphan) -> float | None:
        """When it was first seen; None if the last sweep did not see it."""
        return self._seen.first_s.get(_name(orphan))

    def update(self, orphans: Iterable[Orphan], now_s: float) -> None:
        """Records that a sweep has just seen these, and nothing else."""
        known = self._seen.first_s if now_s - self._seen.at_s <= self._patience_s else {}
        first = {_name(one): min(known.get(_name(one), now_s), now_s) for one in orphans}
        self._seen = FirstSeen(boot_id=self._seen.boot_id, at_s=now_s, first_s=first)

    def due(self, orphans: Iterable[Orphan], now_s: float, grace_s: float) -> tuple[Orphan, ...]:
        """The orphans first seen at least `grace_s` ago."""
        return tuple(
            one
            for one in orphans
            if (first := self.first_s(one)) is not None and now_s - first >= grace_s
        )

    def save(self) -> None:
        """Writes the file.

        Raises:
            HostdError, OSError: it cannot be written.
        """
        files.write(self._path, msgspec.json.encode(self._seen))


def _name(orphan: Orphan) -> str:
    return _SEPARATOR.join(orphan.key)
