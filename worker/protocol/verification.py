"""Verifies the bytes of a job: well formed, signed, for this host, in time."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Final

import msgspec

from enqueue import envelope
from enqueue.envelope import Body, Envelope
from enqueue.keys import job_id
from enqueue.signing import Verifier
from worker.errors import Rejected

MAX_BYTES: Final = envelope.MAX_BYTES
OWN_ISSUERS: Final = "hostd:"  # the prefix of requests that a host makes itself


class Forged(Rejected):
    """Not sent by agentd: the job is quarantined and never enters the ledger."""


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A verified request.  `call` is RQ's data, not deflated; `digest` is that of its intent."""

    body: Body
    call: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose requests this host accepts."""

    host: str
    verifier: Verifier
    insecure: bool


def inflated(data: bytes) -> bytes:
    """RQ's data, not deflated; stock tools deflate it when they save a job, so both forms are read.

    Raises:
        Forged: `oversized`, `malformed`.
    """
    if len(data) > MAX_BYTES:
        raise Forged("oversized", f"request of {len(data)} bytes; the limit is {MAX_BYTES}")
    if data[:1] == b"[":
        return data
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(data, MAX_BYTES + 1)
    except zlib.error as error:
        raise Forged("malformed", f"neither JSON nor deflated: {error}") from error
    if len(plain) > MAX_BYTES:
        raise Forged("oversized", f"request inflates to more than {MAX_BYTES} bytes")
    if not stream.eof:
        raise Forged("malformed", "neither JSON nor whole deflated data")
    return plain


def verify(data: bytes, *, id_: str, policy: Policy) -> VerifiedRequest:
    """The request in a job's `data`, if it is well formed, signed, and for this host.

    Raises:
        Forged: `oversized`, `malformed`, `unsigned`, `bad_signature`, `wrong_host`, `wrong_job_id`.
    """
    call = inflated(data)
    try:
        sealed = envelope.decode_call(call)
        _check_signature(sealed, policy)
        body = envelope.decode_body(sealed.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Forged(
            "malformed", f"not a request of this protocol: {error}", hint="enqueue with HostClient"
        ) from error
    if body.host != policy.host:
        raise Forged("wrong_host", f"addressed to {body.host}; this host is {policy.host}")
    if is_own(body):
        raise Forged("malformed", f"the issuer {body.issuer!r} can only be a host itself")
    if id_ != job_id(body.host, body.request_id):
        raise Forged("wrong_job_id", f"job {id_} carries request {body.request_id} of {body.host}")
    return VerifiedRequest(body, call, _digest(body))


def is_own(body: Body) -> bool:
    """Whether this host made the request itself."""
    return body.issuer.startswith(OWN_ISSUERS)


def trusted(call: bytes) -> VerifiedRequest:
    """The request in bytes of the ledger, which were verified when they were accepted."""
    body = envelope.decode_body(envelope.decode_call(call).body)
    return VerifiedRequest(body, call, _digest(body))


def _digest(body: Body) -> bytes:
    return hashlib.sha256(envelope.canonical(body)).digest()


def _check_signature(sealed: Envelope, policy: Policy) -> None:
    if policy.insecure and not sealed.sig and not sealed.key_id:
        return
    if not sealed.sig:
        raise Forged(
            "unsigned",
            "the request is not signed",
            hint="give HostClient a signer; see `hostctl keygen`",
        )
    if not policy.verifier.verifies(sealed.body, key_id=sealed.key_id, sig=sealed.sig):
        raise Forged(
            "bad_signature",
            f"no key {sealed.key_id!r} of this host made this signature",
            hint="put the public key into [security] keys_dir",
        )


def check_known(body: Body, *, lost_before_ms: int | None) -> None:
    """Checks that a request unknown to the ledger was not known to a lost ledger either.

    `lost_before_ms` is when the loss was noticed.  The issuer's clock may be ahead of this host's.

    Raises:
        Rejected: `ledger_lost`.
    """
    if lost_before_ms is None or body.issued_at_ms > lost_before_ms + envelope.CLOCK_SKEW_MS:
        return
    raise Rejected(
        "ledger_lost",
        "this host lost its ledger after the request was issued: it may have been carried out",
        hint="look at the instance (`hostctl events`, `hostd why` on the host); send a new request",
    )


def check_times(body: Body, *, now_ms: int) -> None:
    """Checks that the request may begin now: at acceptance and before the first attempt only.

    Raises:
        Rejected: `expired`, `lifetime`, `from_the_future`.
    """
    late_ms = now_ms - body.not_after_ms - envelope.CLOCK_SKEW_MS
    if late_ms > 0:
        raise Rejected(
            "expired",
            f"its time ended {late_ms / 1000:.1f} s ago (30 s of clock skew allowed)",
            hint="enqueue it again, with a new request id",
        )
    if body.not_after_ms - body.issued_at_ms > envelope.MAX_LIFETIME_MS:
        raise Rejected("lifetime", "not_after_ms is more than 7 days after issued_at_ms")
    if body.issued_at_ms > now_ms + envelope.CLOCK_SKEW_MS:
        ahead_s = (body.issued_at_ms - now_ms) / 1000
        raise Rejected(
            "from_the_future",
            f"issued {ahead_s:.1f} s ahead of this host's clock",
            hint="synchronize the clocks",
        )
