"""The port of the guest's agent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from worker.model.names import InstanceRef


class AgentOutcome(Enum):
    """What came of asking a guest's agent."""

    DONE = "done"
    REFUSED = "refused"  # it answered that it will not, or cannot
    TIMED_OUT = "timed_out"  # it took the connection, and did not answer in time
    GARBLED = "garbled"  # what it said is not the protocol, or it hung up in the middle
    NO_AGENT = "no_agent"  # nobody in the guest took the connection
    VSOCK_UNUSABLE = "vsock_unusable"  # this VMM can no longer connect to its guest


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What came of it; `detail` is the guest's own word or hostd's, bounded and printable."""

    outcome: AgentOutcome
    detail: str | None
    took_ms: int


class Agents(Protocol):
    """The agent inside a guest; a guest need not have one.

    No call raises for an agent that is absent, hung, hostile or of another protocol: the answer
    says so, within the timeout.  Everything an agent says is the guest's word and proves nothing.
    """

    def drain(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        """The guest was asked to get ready for a pause, and from now on is not `agent_notified`."""

    def notify_resumed(self, ref: InstanceRef) -> AgentAnswer:
        """The guest was told that it runs again; it is `agent_notified`, whatever came of it."""

    def agent_notified(self, ref: InstanceRef) -> bool:
        """Whether this VMM's guest was told so since it was last loaded, drained or paused."""

    def ready(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        """The agent answered a Ping within the timeout, asked until it did; then `agent_seen`."""

    def agent_seen(self, ref: InstanceRef) -> bool:
        """Whether the agent of this VMM's guest has ever answered `ready`."""
