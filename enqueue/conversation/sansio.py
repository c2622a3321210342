"""Sans-I/O: conversations with Redis, without a connection.

A conversation is a generator: it yields a `RoundTrip` or a `Sleep`, receives the replies, and
returns its outcome.  `client.py` and `aio.py` run the same conversations.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from enqueue.conversation.scripts import Command, Script
from enqueue.errors import QueueUnavailable


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Commands for one round trip; Redis may block for up to `blocks_s` before it replies."""

    commands: tuple[Command, ...]
    blocks_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing is sent for this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error in place of a reply."""

    text: str
    unknown_script: bool = False


class LinkDown(Exception):
    """A round trip failed.

    `sent`: Redis may have executed the commands.  `timed_out`: no time is left to repeat them.
    """

    def __init__(self, message: str, *, sent: bool, timed_out: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.timed_out = timed_out


T = TypeVar("T")
Replies = list[Any]  # one per command; their shapes are Redis's
Conversation = Generator[RoundTrip | Sleep, Replies, T]


def step(conversation: Conversation[T], outcome: Replies | LinkDown) -> RoundTrip | Sleep:
    """What the conversation needs next, after the outcome of what it needed before.

    Raises:
        StopIteration: it has ended; the value is its outcome.
    """
    if isinstance(outcome, LinkDown):
        return conversation.throw(outcome)
    return conversation.send(outcome)


def read(*commands: Command, blocks_s: float = 0.0) -> Conversation[Replies]:
    """The replies to commands that change nothing; one failed round trip is repeated.

    Raises:
        QueueUnavailable: Redis did not answer in time, or refused a command.
    """
    try:
        replies = yield from _repeated_once(RoundTrip(commands, blocks_s))
    except LinkDown as error:
        raise QueueUnavailable(str(error), may_be_stored=False) from None
    for reply in replies:
        if isinstance(reply, ErrorReply):
            raise refused(reply, may_be_stored=False)
    return replies


def _repeated_once(trip: RoundTrip) -> Conversation[Replies]:
    try:
        return (yield trip)
    except LinkDown as error:
        if error.timed_out:
            raise
    return (yield trip)


def run_script(script: Script, command: Command) -> Conversation[list[Any]]:
    """The script's reply.  One failed round trip is repeated: the scripts are idempotent.

    Raises:
        QueueUnavailable: Redis did not answer in time, or refused the script.
    """
    commands: tuple[Command, ...] = (command,)
    sent, failures = False, 0
    while True:
        try:
            replies = yield RoundTrip(commands)
        except LinkDown as error:
            sent, failures = sent or error.sent, failures + 1
            if error.timed_out or failures == 2:
                raise _unanswered(error, sent=sent) from None
            continue
        errors = [reply for reply in replies if isinstance(reply, ErrorReply)]
        if not errors:
            return as_list(replies[-1])
        if not errors[0].unknown_script or len(commands) > 1:
            raise refused(errors[0], may_be_stored=sent)
        commands = (script.upload(), command)


def _unanswered(error: LinkDown, *, sent: bool) -> QueueUnavailable:
    known = "may have been stored" if sent else "was not stored"
    return QueueUnavailable(
        f"{error}; the request {known}; enqueueing it again with the same id is safe",
        may_be_stored=sent,
    )


def refused(reply: ErrorReply, *, may_be_stored: bool) -> QueueUnavailable:
    """The error for a command that Redis refused."""
    return QueueUnavailable(f"Redis refused a command: {reply.text}", may_be_stored=may_be_stored)


def as_list(reply: object) -> list[Any]:
    """The reply, if it is a list.

    Raises:
        QueueUnavailable: it is something else, as when a key has another type.
    """
    if not isinstance(reply, list):
        raise QueueUnavailable(f"Redis sent {reply!r} instead of a list", may_be_stored=True)
    return reply


def as_text(value: object) -> str:
    """The reply as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def entries(reply: object) -> list[Any]:
    """The entries of the one stream in a reply to XREAD, each `[id, fields]`."""
    if not reply:
        return []
    # RESP3 sends a map of streams, RESP2 a list of pairs.
    pairs = list(reply.items()) if isinstance(reply, dict) else as_list(reply)
    return as_list(pairs[0][1])
