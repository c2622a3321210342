"""agentd's side of hostd: the requests, the bytes on the queue, and the client.

    with HostClient("rediss://redis:6379/0", signer=load_signer(path)) as client:
        ticket = client.enqueue(Ping(), host="host-a")
        result = ticket.wait(timeout_s=120)

* `HostClient`, `AsyncHostClient` (enqueue.client, enqueue.aio) enqueue requests; their tickets
  wait, retry and cancel
* enqueue.requests: one struct per operation; `enqueue.results`: `Done`, `Pong` or `Failed`
* enqueue.errors: every error that a client raises, with what it means for the request
* enqueue.signing: `load_signer` reads a key that `hostctl keygen` made
* enqueue.documents: tenant.json, pool.json and instance.json
* enqueue.envelope, enqueue.keys: the bytes and the keys in Redis, for other clients

The clients are imported on first use, so that hostd can import the other modules without redis-py.
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
