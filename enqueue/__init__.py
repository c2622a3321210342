"""agentd's side of hostd: the wire contract and the queue client.

`HostClient` and `AsyncHostClient` are imported on first use, so that the host's side can use the
pure modules of this package without the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enqueue.aio import AsyncHostClient as AsyncHostClient
    from enqueue.client import HostClient as HostClient

_LAZY = {"HostClient": "enqueue.client", "AsyncHostClient": "enqueue.aio"}

__all__ = ["AsyncHostClient", "HostClient"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
