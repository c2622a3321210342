"""Reading a ledger beside a hostd that may be running."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from worker.ledger.database import Database, unusable_ledger
from worker.ledger.ledger import Ledger
from worker.ledger.schema import SCHEMA_VERSION


@contextmanager
def open_readonly(path: Path) -> Iterator[Ledger]:
    """The ledger at `path`, which cannot be changed through it.

    Raises:
        StartupError: it does not exist, or cannot be read.
    """
    try:
        with closing(Ledger(Database.open_readonly(path))) as ledger:
            yield ledger
    except sqlite3.Error as error:
        raise unusable_ledger(path, error) from error


@contextmanager
def snapshot(path: Path) -> Iterator[Ledger]:
    """The ledger as it is now, however long the caller reads it.

    Raises:
        StartupError: it does not exist, cannot be read, or is of another schema.
    """
    with open_readonly(path) as ledger:
        if (found := ledger.database.schema_version()) != SCHEMA_VERSION:
            wrong = f"of schema {found}, this hostd reads {SCHEMA_VERSION}"
            raise unusable_ledger(path, sqlite3.DatabaseError(wrong))
        ledger.database.freeze()
        yield ledger


def holds_requests(path: Path) -> bool:
    """Whether a ledger exists, be it without requests: an empty file is no ledger.

    Raises:
        StartupError: a file is there that cannot be read.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    with open_readonly(path) as ledger:
        return ledger.database.has_table("requests")
