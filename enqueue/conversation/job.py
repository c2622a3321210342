"""Requests and results as RQ stores them in Redis."""

from __future__ import annotations

import base64
import binascii
import secrets
import uuid
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from enqueue import keys, results
from enqueue.conversation.validation import explain
from enqueue.envelope import (
    DEFAULT_LIFETIME_MS,
    MAX_BYTES,
    MAX_LIFETIME_MS,
    VERSION,
    Body,
    decode_body,
    decode_call,
    encode_body,
    encode_call,
)
from enqueue.errors import BadRequest
from enqueue.requests import HostName, Request, RequestId, describe, op_of
from enqueue.signing import Signer
from enqueue.times import format_rq

RETENTION_S: Final = 7 * 24 * 3600  # a job is kept this long after its `not_after`
# hostd ignores the timeout in Redis; stock tools need a number.
DISPLAYED_TIMEOUT_S: Final = 3600
MAX_REASON_BYTES: Final = 64 * 1024

NotAfter = datetime | float | None


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """A request that is ready to be stored: `data` is RQ's field, `body` what it encodes."""

    body: Body
    data: bytes

    @property
    def host(self) -> str:
        """The host that it is addressed to."""
        return self.body.host

    @property
    def request_id(self) -> str:
        """The caller's idempotency key."""
        return self.body.request_id

    @property
    def job_id(self) -> str:
        """RQ's id of the job."""
        return keys.job_id(self.body.host, self.body.request_id)


def new_request_id(now_ms: int) -> str:
    """A UUIDv7 (RFC 9562, section 5.7): sorts by time, 74 random bits."""
    value = (now_ms & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0b11 << 62) | 0b10 << 62
    return str(uuid.UUID(int=value))


def seal(
    request: Request,
    *,
    host: str,
    request_id: str | None,
    not_after: NotAfter,
    issuer: str,
    trace: str | None,
    signer: Signer | None,
    now_ms: int,
) -> SealedRequest:
    """The request, checked, encoded and signed; unsigned if `signer` is None.

    Raises:
        BadRequest: a field breaks the protocol.
    """
    body = Body(
        v=VERSION,
        request_id=RequestId(new_request_id(now_ms) if request_id is None else request_id),
        host=HostName(host),
        issuer=issuer,
        issued_at_ms=now_ms,
        not_after_ms=_deadline_ms(not_after, now_ms),
        trace=trace,
        request=request,
    )
    try:
        raw = encode_body(body)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequest(explain(error, body)) from None
    body = decode_body(raw)  # as the host will read it, even if `request` was not our struct
    if signer is None:
        return SealedRequest(body, encode_call(raw))
    return SealedRequest(body, encode_call(raw, key_id=signer.key_id, sig=signer.sign(raw)))


def _deadline_ms(not_after: NotAfter, now_ms: int) -> int:
    match not_after:
        case None:
            return now_ms + DEFAULT_LIFETIME_MS
        case datetime():
            if not_after.tzinfo is None:
                raise BadRequest(f"not_after: {not_after} has no time zone; use an aware datetime")
            deadline_ms = round(not_after.timestamp() * 1000)
        case _:
            deadline_ms = now_ms + _lifetime_ms(not_after)
    if not now_ms < deadline_ms <= now_ms + MAX_LIFETIME_MS:
        raise BadRequest(f"not_after: {not_after} is not within the next 7 days")
    return deadline_ms


def _lifetime_ms(seconds: float) -> int:
    try:
        return round(seconds * 1000)
    except (TypeError, ValueError, OverflowError):
        raise BadRequest(f"not_after: {seconds!r} is neither seconds nor a datetime") from None


def unseal(data: bytes) -> SealedRequest | None:
    """The request in a stored job's `data`; None if it is not a request of this protocol.

    RQ's own tools compress a job that they save, so `data` may be zlib.
    """
    try:
        raw = data if data[:1] == b"[" else zlib.decompressobj().decompress(data, MAX_BYTES)
        return SealedRequest(decode_body(decode_call(raw).body), raw)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError):
        return None


def job_hash(sealed: SealedRequest, *, now_ms: int) -> dict[str, str | bytes | int]:
    """The job as RQ 3 stores it (`Job.to_dict`), but `data` uncompressed, which RQ can read too."""
    issued = format_rq(now_ms)
    blank = ("started_at", "ended_at", "last_heartbeat", "worker_name", "group_id")
    callbacks = (f"{event}_callback_name" for event in ("success", "failure", "stopped"))
    return {
        "status": "queued",
        "data": sealed.data,
        "origin": keys.HostKeys(sealed.host).queue_name,
        "description": describe(sealed.body.request),
        "created_at": issued,
        "enqueued_at": issued,
        "timeout": DISPLAYED_TIMEOUT_S,
        **dict.fromkeys((*blank, *callbacks), ""),
    }


def read_result(sealed: SealedRequest, entry: dict[bytes, bytes]) -> results.Result:
    """The result in an entry of RQ's result stream.

    If the entry is not hostd's, as when a stock tool failed the job, the result is a `Failed` with
    code `broken/no_result`: it is then unknown whether the request was executed.
    """
    try:
        return results.decode_result(base64.b64decode(entry[b"return_value"], validate=True))
    except (KeyError, binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        return results.Failed(
            op=op_of(sealed.body.request),
            code="broken/no_result",
            failure_class="broken",
            message=f"the job ended without hostd's result: {_reason(entry)}",
            hint="check the instance on the host, then retry",
        )


def _reason(entry: dict[bytes, bytes]) -> str:
    try:
        packed = base64.b64decode(entry[b"exc_string"], validate=True)
        text = zlib.decompressobj().decompress(packed, MAX_REASON_BYTES).decode(errors="replace")
    except (KeyError, binascii.Error, zlib.error):
        return "no reason given"
    return (text.strip().splitlines() or ["no reason given"])[-1]
