"""httpx, imported when first needed, so that a worker is ready before it pays for it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx as httpx_types

    from worker.host.firecracker.api.transport import OneConnection


def warm() -> None:
    """What the first conversation would have to import is there."""
    _one_connection()


def httpx() -> ModuleType:
    """httpx itself.

    Its `__init__` imports its command line if that can be had, and with it rich and pygments: 4 MiB
    and 40 ms.  None in sys.modules makes an import fail ("The import system" in Python's
    reference), and httpx then does without.
    """
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]  # typeshed knows no None here
    import httpx

    return httpx


def one_connection(path: str, check: Callable[[socket.socket], None]) -> OneConnection:
    """Our transport for it, for the socket at `path`."""
    return _one_connection()(path, check)


@lru_cache(maxsize=64)
def url(path: str) -> httpx_types.URL:
    """The URL of a path; taking one to pieces takes longer than the rest of making a request."""
    found: httpx_types.URL = httpx().URL(f"http://localhost{path}")
    return found


def _one_connection() -> type[OneConnection]:
    httpx()
    from worker.host.firecracker.api.transport import OneConnection

    return OneConnection
