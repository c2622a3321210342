"""The agents of guests in memory."""

from __future__ import annotations

from tests.fakes.vmm import Guest, Machine
from worker.model.names import InstanceRef
from worker.ports import AgentAnswer, AgentOutcome, VmmState


class FakeAgents:
    """Implements `worker.ports.Agents` over the guests of a `FakeVmm`'s machine.

    `calls` is all that agents were asked, in order.  `present` says whether guests have one,
    `drains` what it answers to a drain, `answers_after` how often it is asked before it is up.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.present = True
        self.drains = AgentOutcome.DONE
        self.answers_after = 0
        self.calls: list[tuple[str, float | None]] = []

    def drain(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        guest = self._guest(ref)
        if guest is None:
            return AgentAnswer(AgentOutcome.NO_AGENT, None, 0)
        guest.notified = False
        self.calls.append(("drain", timeout_s))
        took_ms = int(timeout_s * 1000) if self.drains is AgentOutcome.TIMED_OUT else 0
        return AgentAnswer(self.drains, None, took_ms)

    def notify_resumed(self, ref: InstanceRef) -> AgentAnswer:
        running = self._guest(ref)
        if ref in self.machine.guests:
            self.machine.guests[ref].notified = True
        if running is None:
            return AgentAnswer(AgentOutcome.NO_AGENT, None, 0)
        self.calls.append(("notify_resumed", None))
        return AgentAnswer(AgentOutcome.DONE, None, 0)

    def agent_notified(self, ref: InstanceRef) -> bool:
        guest = self.machine.guests.get(ref)
        return guest is not None and guest.notified

    def ready(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        guest = self._guest(ref)
        if guest is None or self.answers_after:
            self.answers_after = max(0, self.answers_after - 1)
            return AgentAnswer(AgentOutcome.NO_AGENT, None, int(timeout_s * 1000))
        guest.ready = True
        self.calls.append(("ready", timeout_s))
        return AgentAnswer(AgentOutcome.DONE, None, 0)

    def agent_seen(self, ref: InstanceRef) -> bool:
        guest = self.machine.guests.get(ref)
        return guest is not None and guest.ready

    def _guest(self, ref: InstanceRef) -> Guest | None:
        """The running guest, if it has an agent."""
        guest = self.machine.guests.get(ref)
        up = guest is not None and guest.state is VmmState.RUNNING
        return guest if self.present and up else None
