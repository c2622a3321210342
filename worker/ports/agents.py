"""The port of the guest's agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from worker.model.names import InstanceRef


class AgentOutcome(Enum):
    """The outcome of a call to a guest's agent."""

    DONE = "done"
    REFUSED = "refused"  # it answered that it will not, or cannot
    TIMED_OUT = "timed_out"  # it took the connection, and did not answer in time
    GARBLED = "garbled"  # it broke the protocol, or closed the connection in the middle
    NO_AGENT = "no_agent"  # no process in the guest accepted the connection
    VSOCK_UNUSABLE = "vsock_unusable"  # this VMM can no longer connect to its guest


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """`detail` is text of the guest or of hostd, bounded and printable."""

    outcome: AgentOutcome
    detail: str | None
    took_ms: int


class Agents(Protocol):
    """The agent inside a guest; a guest need not have one.

    No call raises for an agent that is absent, hung, hostile or of another protocol: the answer
    says so, within the timeout.  All that an agent says comes from the guest: never trust it.
    """

    def drain(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        """Asks the guest to prepare for a pause; clears the flag `agent_notified`."""

    def notify_resumed(self, ref: InstanceRef) -> AgentAnswer:
        """Tells the guest that it runs again; sets `agent_notified`, even if no agent answered."""

    def agent_notified(self, ref: InstanceRef) -> bool:
        """Whether `notify_resumed` was called since the guest was loaded, drained or paused."""

    def ready(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        """Sends Pings until the agent answers one or the time is over; sets `agent_seen`."""

    def agent_seen(self, ref: InstanceRef) -> bool:
        """Whether the agent of this VMM's guest has ever answered `ready`."""
