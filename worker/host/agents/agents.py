"""Calls the guest's agent over vsock: implements the port `Agents`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, assert_never

from worker.host.agents import messages, vsock
from worker.host.agents.messages import Ack, Reply
from worker.host.agents.vsock import DeadlineError, DeadlineSocket, GarbledError, NoConnectionError
from worker.host.firecracker import marks, versions, vmm_record
from worker.host.firecracker.driver import Firecracker
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.ports import AgentAnswer, AgentOutcome

log = logging.getLogger("hostd")

_POLL_S: Final = 0.1

Message = Callable[[float], Any]  # from the seconds that are left


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The outcome of one operation; `capabilities` are those that the agent's hello offered."""

    outcome: AgentOutcome
    detail: str | None = None
    capabilities: tuple[str, ...] = ()


class GuestAgents:
    """Calls the agents of Firecracker's guests, with a connection for each operation.

    `timeout_s` bounds the wait for an agent's hello, and each short operation as a whole.
    """

    def __init__(self, layout: Layout, vmm: Firecracker, *, timeout_s: float = 5.0) -> None:
        self._layout = layout
        self._vmm = vmm
        self._timeout_s = timeout_s

    def drain(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        began = time.monotonic()
        marks.drop(self._layout.runtime(ref), marks.NOTIFIED)
        return _answer(self._ask(ref, _sleep_prep, began + timeout_s), began)

    def notify_resumed(self, ref: InstanceRef) -> AgentAnswer:
        """An agent that offers `PostRestore` gets it after `Wake`."""
        began = time.monotonic()
        deadline = began + self._timeout_s
        word = self._ask(ref, lambda _: "Wake", deadline)
        if word.outcome is AgentOutcome.DONE and messages.POST_RESTORE in word.capabilities:
            word = self._ask(ref, lambda _: "PostRestore", deadline)
        marks.put(self._layout.runtime(ref), marks.NOTIFIED)
        return _answer(word, began)

    def agent_notified(self, ref: InstanceRef) -> bool:
        return marks.has(self._layout.runtime(ref), marks.NOTIFIED)

    def ready(self, ref: InstanceRef, *, timeout_s: float) -> AgentAnswer:
        began = time.monotonic()
        deadline = began + timeout_s
        while True:
            word = self._ask(
                ref, lambda _: "Ping", min(deadline, time.monotonic() + self._timeout_s)
            )
            if word.outcome is AgentOutcome.DONE:
                marks.put(self._layout.runtime(ref), marks.READY)
            over = time.monotonic() + _POLL_S >= deadline
            if over or word.outcome is AgentOutcome.DONE or self._vmm.pid(ref) is None:
                return _answer(word, began)
            time.sleep(_POLL_S)

    def agent_seen(self, ref: InstanceRef) -> bool:
        return marks.has(self._layout.runtime(ref), marks.READY)

    def _ask(self, ref: InstanceRef, message: Message, deadline: float) -> _Outcome:
        vmm = self._vmm.open_vmm(ref)
        if vmm is None:
            return _Outcome(AgentOutcome.NO_AGENT, "its VMM is gone")
        with vmm:
            fault = _vsock_fault(self._layout.runtime(ref))
            if fault is not None:
                return _Outcome(AgentOutcome.VSOCK_UNUSABLE, fault)
            greeting = min(deadline, time.monotonic() + self._timeout_s)
            try:
                return _exchange(self._vmm.vsock(ref), vmm.pid, message, greeting, deadline)
            except NoConnectionError as error:
                return _Outcome(AgentOutcome.NO_AGENT, str(error))
            except DeadlineError:
                return _Outcome(AgentOutcome.TIMED_OUT)
            except GarbledError as error:
                log.warning("%s: its agent broke the protocol: %s", ref, error)
                return _Outcome(AgentOutcome.GARBLED, str(error))


def _vsock_fault(runtime: Path) -> str | None:
    """Why this version of the VMM cannot connect to the guest any more; None if it can."""
    version = vmm_record.version_of(runtime)
    if marks.has(runtime, marks.RESTORED) and not versions.vsock_survives_restore(version):
        return f"Firecracker {version} loses vsock in a restore"
    if marks.has(runtime, marks.RESUMED) and not versions.vsock_survives_bare_resume(version):
        return f"Firecracker {version} loses vsock in a pause without a snapshot"
    return None


def _exchange(path: Path, pid: int, message: Message, greeting: float, deadline: float) -> _Outcome:
    capabilities: tuple[str, ...] = ()
    try:
        wire = vsock.connect(path, messages.PORT, pid=pid, deadline=greeting)
        greets = True
    except vsock.NotListeningError:
        wire = vsock.connect(path, messages.OLD_PORT, pid=pid, deadline=greeting)
        greets = False
    with wire:
        if greets:
            refusal, capabilities = _greet(wire)
            if refusal is not None:
                return refusal
        wire.deadline = deadline
        messages.send(wire, message(wire.left_s()))
        return _meaning(messages.receive(wire), capabilities)


def _greet(wire: DeadlineSocket) -> tuple[_Outcome | None, tuple[str, ...]]:
    """The refusal that ends the conversation, or None, and the agent's capabilities."""
    messages.send(wire, messages.hello())
    match messages.receive(wire):
        case Reply(protocol_hello_ack=messages.HelloAck(capabilities=capabilities)):
            return None, capabilities
        case Reply(protocol_mismatch=messages.Mismatch(agent_protocol_version=other)):
            return _Outcome(AgentOutcome.REFUSED, f"it speaks protocol version {other}"), ()
        case Reply(error=messages.Fault(message=text)):
            return _Outcome(AgentOutcome.REFUSED, messages.plain(text)), ()
        case _:
            raise GarbledError("it did not answer the hello")


def _meaning(reply: Reply | messages.Pong, capabilities: tuple[str, ...]) -> _Outcome:
    match reply:
        case "Pong":
            return _Outcome(AgentOutcome.DONE, None, capabilities)
        case Reply(error=messages.Fault(message=text)):
            return _Outcome(AgentOutcome.REFUSED, messages.plain(text), capabilities)
        case Reply():
            ack = reply.sleep_prep_ack or reply.wake_ack or reply.post_restore_ack
            if ack is None:
                raise GarbledError("it did not answer what it was asked")
            return _acknowledged(ack, capabilities)
        case _:
            assert_never(reply)


def _acknowledged(ack: Ack, capabilities: tuple[str, ...]) -> _Outcome:
    outcome = AgentOutcome.DONE if ack.success else AgentOutcome.REFUSED
    return _Outcome(outcome, messages.plain(ack.detail), capabilities)


def _sleep_prep(left_s: float) -> dict[str, Any]:
    # Whole seconds, rounded down: the guest must answer before hostd's own deadline.
    return {"SleepPrep": {"drain_timeout_secs": max(1, int(left_s))}}


def _answer(word: _Outcome, began: float) -> AgentAnswer:
    return AgentAnswer(word.outcome, word.detail, round((time.monotonic() - began) * 1000))
