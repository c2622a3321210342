"""Whether the state directory is still the one that this boot began with.

If its disk was unmounted, or another is mounted in its place, no instance is on record: every guest
would look like an orphan.
"""

from __future__ import annotations

from typing import Final

from worker.ledger.ledger import Ledger
from worker.model.layout import Layout

_NOTE: Final = "state_directory"


def is_same_state(ledger: Ledger, layout: Layout, *, boot_id: str) -> bool:
    """Whether it is still the same; the first call in a boot records which one it is.

    Raises:
        OSError: it does not exist.
    """
    now, known = _identity(layout, boot_id), ledger.meta.get(_NOTE)
    if known is None or known.partition(" ")[0] != boot_id:
        accept_state(ledger, layout, boot_id=boot_id)
        return True
    return known == now


def accept_state(ledger: Ledger, layout: Layout, *, boot_id: str) -> None:
    """Accepts the directory as it is now: a person has moved it.

    Raises:
        OSError: it does not exist.
    """
    ledger.meta.set(_NOTE, _identity(layout, boot_id))


def _identity(layout: Layout, boot_id: str) -> str:
    seen = layout.state.stat()
    return f"{boot_id} {seen.st_dev}:{seen.st_ino}"
