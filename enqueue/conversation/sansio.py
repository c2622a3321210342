"""One round trip after another, without the talking.

A conversation with Redis is a generator: it yields a `RoundTrip` or a `Sleep`, is sent
the replies, and returns its outcome.  `client.py` and `aio.py` run the same ones.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from enqueue.conversation.scripts import Command, Script
from enqueue.errors import QueueUnavailable


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Commands for one round trip; Redis may hold the reply back for `blocks_s` on purpose."""

    commands: tuple[Command, ...]
    blocks_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sleep:
    """Nothing is to be said for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error in place of a reply."""

    text: str
    unknown_script: bool = False


class LinkDown(Exception):
    """A round trip failed.

    `sent`: Redis may have acted on the commands.  `slow`: the time allowed is used up.
    """

    def __init__(self, message: str, *, sent: bool, slow: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.slow = slow


T = TypeVar("T")
# What Redis sends has no static type; whoever asks knows the shape.
Replies = list[Any]
Talk = Generator[RoundTrip | Sleep, Replies, T]


def advance(talk: Talk[T], outcome: Replies | LinkDown) -> RoundTrip | Sleep:
    """What the conversation wants next, told how its last step went.

    Raises:
        StopIteration: it is over; the value is its outcome.
    """
    return talk.throw(outcome) if isinstance(outcome, LinkDown) else talk.send(outcome)


def reading(*commands: Command, blocks_s: float = 0.0) -> Talk[Replies]:
    """The replies to commands that change nothing, asked for twice if need be.

    Raises:
        QueueUnavailable: Redis did not answer in time, or refuses.
    """
    try:
        return (yield from _asking(RoundTrip(commands, blocks_s)))
    except LinkDown as error:
        raise QueueUnavailable(str(error), may_be_stored=False) from None


def _asking(ask: RoundTrip) -> Talk[Replies]:
    try:
        replies = yield ask
    except LinkDown as error:
        if error.slow:
            raise
        replies = yield ask
    for reply in replies:
        if isinstance(reply, Refusal):
            raise QueueUnavailable(f"Redis refuses: {reply.text}", may_be_stored=False)
    return replies


def scripted(script: Script, command: Command) -> Talk[list[Any]]:
    """The script's reply.  The scripts are idempotent, so one lost round trip is repeated."""
    commands: tuple[Command, ...] = (command,)
    sent, attempts = False, 0
    while True:
        try:
            replies = yield RoundTrip(commands)
        except LinkDown as error:
            sent, attempts = sent or error.sent, attempts + 1
            if error.slow or attempts == 2:
                raise QueueUnavailable(_away(error, sent=sent), may_be_stored=sent) from None
            continue
        refusals = [reply for reply in replies if isinstance(reply, Refusal)]
        if not refusals:
            return as_list(replies[-1])
        if not refusals[0].unknown_script or len(commands) > 1:
            raise QueueUnavailable(f"Redis refuses: {refusals[0].text}", may_be_stored=sent)
        commands = (script.upload(), command)


def _away(error: LinkDown, *, sent: bool) -> str:
    known = "may have been stored" if sent else "was not stored"
    return f"{error}; the request {known}; enqueueing it again with the same id is safe"


def as_list(reply: object) -> list[Any]:
    """The reply, if it is a list.

    Raises:
        QueueUnavailable: it is something else, as when a key has another type.
    """
    if not isinstance(reply, list):
        raise QueueUnavailable(f"Redis sent {reply!r} in place of a list", may_be_stored=True)
    return reply


def as_text(value: object) -> str:
    """The reply as text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def entries(reply: object) -> list[Any]:
    """The entries of the one stream in the reply to XREAD."""
    if not reply:
        return []
    # RESP3 sends a map of streams, RESP2 a list of pairs.
    pairs = list(reply.items()) if isinstance(reply, dict) else as_list(reply)
    return as_list(pairs[0][1])
