"""Steps for the guest's agent, and its part of the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.errors import Transient
from worker.model.names import InstanceRef
from worker.ports import AgentAnswer, AgentOutcome, Host


@dataclass(frozen=True, slots=True)
class GuestReady:
    """The guest's agent has answered."""

    ref: InstanceRef
    timeout_s: float
    name: str = "guest_ready"

    def done(self, host: Host) -> bool:
        return host.agents.agent_seen(self.ref)

    def apply(self, host: Host) -> Mapping[str, Any]:
        answer = host.agents.ready(self.ref, timeout_s=self.timeout_s)
        if answer.outcome is not AgentOutcome.DONE:
            raise Transient(
                "guest_not_ready",
                f"the agent of {self.ref} did not answer within {self.timeout_s:g} s: "
                f"{answer.detail or answer.outcome.value}",
                hint="does the guest boot, and its agent listen on vsock port 5252? the pool's "
                "runtime_policy.readiness_timeout_seconds bounds the wait",
                outcome=answer.outcome.value,
            )
        return {"ready": facts_of(answer)}

    def undo(self, host: Host) -> None:
        pass


@dataclass(frozen=True, slots=True)
class GuestNotified:
    """The guest's agent, if one listens, was notified that the guest runs again."""

    ref: InstanceRef
    name: str = "guest_notified"

    def done(self, host: Host) -> bool:
        return host.agents.agent_notified(self.ref)

    def apply(self, host: Host) -> Mapping[str, Any]:
        return {"agent": facts_of(host.agents.notify_resumed(self.ref))}

    def undo(self, host: Host) -> None:
        pass


def drained(ref: InstanceRef, host: Host, drain_s: float | None) -> dict[str, Any]:
    """The outcome of asking the guest to prepare for a pause; None: it is not asked."""
    if drain_s is None:
        return {"outcome": "skipped", "detail": "forced"}
    if drain_s == 0:
        return {"outcome": "skipped", "detail": "no time is given for it"}
    return facts_of(host.agents.drain(ref, timeout_s=drain_s))


def facts_of(answer: AgentAnswer) -> dict[str, Any]:
    """The answer, for the result's detail."""
    return {"outcome": answer.outcome.value, "detail": answer.detail, "took_ms": answer.took_ms}
