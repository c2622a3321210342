"""Requests that must succeed, and how long the client waited for each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import msgspec

from bench.sandbox import HOST
from enqueue.client import HostClient
from enqueue.requests import InstanceRequest, Request
from enqueue.results import Done
from worker.model.names import InstanceRef

WAIT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that succeeded; `waited_ms` is the time from before it was signed to its result."""

    done: Done
    waited_ms: float

    def step_ms(self, name: str) -> float:
        """The time of one step; 0 if the plan had no step of that name."""
        return sum(step.ms for step in self.done.steps if step.name == name)


def carried_out(client: HostClient, request: Request) -> Ended:
    """Sends the request and awaits its result.

    Raises:
        RuntimeError: it failed.
    """
    began = time.perf_counter()
    result = client.enqueue(request, host=HOST).wait(WAIT_S)
    waited_ms = (time.perf_counter() - began) * 1000
    if not isinstance(result, Done):
        raise RuntimeError(f"{request} ended as {result}")  # noqa: TRY004  an outcome, not a type
    return Ended(result, waited_ms)


def of(kind: type[InstanceRequest], ref: InstanceRef, **fields: object) -> InstanceRequest:
    """A request of that kind about the instance."""
    value = {
        "op": kind.__name__,
        "tenant_id": ref.tenant_id,
        "pool_id": ref.pool_id,
        "instance_id": ref.instance_id,
        **fields,
    }
    return msgspec.convert(value, kind)


def step_names(ended: list[Ended]) -> list[str]:
    """The names of all steps, in the plan's order."""
    return list(dict.fromkeys(step.name for one in ended for step in one.done.steps))
