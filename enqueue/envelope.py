"""The bytes on the queue: the request, who sends it, to which host, and until when it is valid.

RQ's 4-tuple `(func, instance, args, kwargs)` as JSON is
`["hostd.execute", null, [ENVELOPE], {}]`.  The signature in ENVELOPE covers the exact bytes of
its `body`, so the body stays undecoded (`msgspec.Raw`) until the signature is verified.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from enqueue.requests import Host, Request, RequestKey

VERSION: Final = 1
ENTRY_POINT: Final = "hostd.execute"
MAX_BYTES: Final = 64 * 1024
DEFAULT_LIFETIME_MS: Final = 24 * 3600 * 1000
MAX_LIFETIME_MS: Final = 7 * 24 * 3600 * 1000
CLOCK_SKEW_MS: Final = 30_000

UnixMs = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
ShortText = Annotated[str, msgspec.Meta(max_length=256)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request to one host; times are Unix milliseconds.

    `request_id` is the caller's idempotency key.  `issuer` names who sends it, for the audit log.
    `trace` is a W3C traceparent.
    """

    v: Literal[1]
    request_id: RequestKey
    host: Host
    issuer: ShortText
    issued_at_ms: UnixMs
    not_after_ms: UnixMs
    trace: ShortText | None
    request: Request


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed body; if unsigned, `key_id` and `sig` are empty."""

    key_id: ShortText
    sig: ShortText
    body: msgspec.Raw


class _NoArguments(msgspec.Struct, forbid_unknown_fields=True):
    pass


_Call = tuple[Literal["hostd.execute"], None, tuple[Envelope], _NoArguments]

_call_decoder = msgspec.json.Decoder(_Call)
_body_decoder = msgspec.json.Decoder(Body)


def encode_body(body: Body) -> bytes:
    """The bytes of `body`; they decode again.

    msgspec checks constraints when it decodes, not when a struct is built.  Decoding the bytes once
    here makes a bad request fail at the caller and not on the host.

    Raises:
        msgspec.ValidationError: a field is out of its range.
    """
    raw = msgspec.json.encode(body)
    _body_decoder.decode(raw)
    return raw


def encode_call(body: bytes, *, key_id: str = "", sig: str = "") -> bytes:
    """RQ's `data` for an encoded body."""
    envelope = Envelope(key_id=key_id, sig=sig, body=msgspec.Raw(body))
    return msgspec.json.encode((ENTRY_POINT, None, (envelope,), {}))


def decode_call(raw: bytes) -> Envelope:
    """The envelope in RQ's `data`; its body is not decoded.

    Raises:
        msgspec.DecodeError: not JSON, not a call of `hostd.execute`, or unknown fields.
    """
    envelope: Envelope = _call_decoder.decode(raw)[2][0]
    return envelope


def decode_body(raw: bytes | msgspec.Raw) -> Body:
    """The body in `raw`.

    Raises:
        msgspec.DecodeError: not JSON, a field out of its range, or unknown fields.
    """
    return _body_decoder.decode(raw)


def canonical(body: Body) -> bytes:
    """The same bytes for two bodies with the same intent: same issuer and request, at any time."""
    return msgspec.json.encode((body.issuer, body.request), order="deterministic")
