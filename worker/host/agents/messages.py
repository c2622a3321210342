"""The guest agent's protocol: frames and messages.

A frame is four bytes of length, big-endian, and JSON of at most 262,144 bytes, tagged by its only
key.  On port 5252 a connection begins with hello and carries one operation; older agents listen on
port 52 and know no hello.  All that arrives comes from the guest and is not trusted.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from worker.config import version
from worker.host.agents.vsock import DeadlineSocket, GarbledError

PORT: Final = 5252
OLD_PORT: Final = 52
FRAME_MAX_BYTES: Final = 262_144
POST_RESTORE: Final = "post_restore"
_PROTOCOL: Final = 1
_TEXT_MAX: Final = 500
_CAPABILITIES: Final = ("ping", "sleep_prep", "wake", POST_RESTORE)


class HelloAck(msgspec.Struct, frozen=True, kw_only=True):
    """The agent speaks this protocol."""

    capabilities: tuple[str, ...] = ()


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """The agent speaks other versions."""

    agent_protocol_version: int | None = None


class Ack(msgspec.Struct, frozen=True, kw_only=True):
    """The agent has carried the operation out, or has not."""

    success: bool
    detail: str | None = None


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The agent cannot carry the operation out."""

    message: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An agent's message: one of these."""

    protocol_hello_ack: HelloAck | None = None
    protocol_mismatch: Mismatch | None = None
    sleep_prep_ack: Ack | None = None
    wake_ack: Ack | None = None
    post_restore_ack: Ack | None = None
    error: Fault | None = None


Pong = Literal["Pong"]
_DECODER: Final[msgspec.json.Decoder[Reply | Pong]] = msgspec.json.Decoder(Reply | Pong)


def hello() -> dict[str, Any]:
    """The first message of a connection."""
    return {
        "ProtocolHello": {
            "host_protocol_version": _PROTOCOL,
            "min_supported_version": _PROTOCOL,
            "host_version": version(),
            "requested_capabilities": _CAPABILITIES,
        }
    }


def send(wire: DeadlineSocket, message: object) -> None:
    """Sends the message.  Raises as `DeadlineSocket.send`."""
    body = msgspec.json.encode(message)
    wire.send(len(body).to_bytes(4, "big") + body)


def receive(wire: DeadlineSocket) -> Reply | Pong:
    """The next message.

    Raises:
        DeadlineError: it did not come in time.
        GarbledError: too long, not JSON, not a message of the protocol, or the connection closed.
    """
    size = int.from_bytes(wire.receive(4), "big")
    if size > FRAME_MAX_BYTES:
        raise GarbledError(f"its frame has {size} bytes, more than {FRAME_MAX_BYTES}")
    try:
        return _DECODER.decode(wire.receive(size))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GarbledError(f"its frame is not a message: {type(error).__name__}") from error


def plain(text: str | None) -> str | None:
    """The guest's text, cut to 500 characters, the unprintable ones replaced."""
    if text is None:
        return None
    return "".join(sign if sign.isprintable() else "?" for sign in text[:_TEXT_MAX])
