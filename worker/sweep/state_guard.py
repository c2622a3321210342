"""Whether the state directory is the one that this boot began with.

Where its disk was unmounted, or another is mounted in its place, no instance is on record any more:
every guest would look like a leftover.
"""

from __future__ import annotations

from typing import Final

from worker.ledger.ledger import Ledger
from worker.model.names import Layout

_NOTE: Final = "state_directory"


def is_same_state(ledger: Ledger, layout: Layout, *, boot_id: str) -> bool:
    """Whether it is; the first to ask in a boot notes which one it is.

    Raises:
        OSError: it is not there.
    """
    now, known = _identity(layout, boot_id), ledger.noted(_NOTE)
    if known is None or known.partition(" ")[0] != boot_id:
        accept_state(ledger, layout, boot_id=boot_id)
        return True
    return known == now


def accept_state(ledger: Ledger, layout: Layout, *, boot_id: str) -> None:
    """From now on it is this one: a person has moved it.

    Raises:
        OSError: it is not there.
    """
    ledger.put_note(_NOTE, _identity(layout, boot_id))


def _identity(layout: Layout, boot_id: str) -> str:
    seen = layout.state.stat()
    return f"{boot_id} {seen.st_dev}:{seen.st_ino}"
