"""The results that a host publishes, as JSON in RQ's return value.

Unknown fields are ignored: a newer host may add fields.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FailureClass = Literal["rejected", "conflict", "transient", "lost", "broken"]


class StepReport(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a plan: `ms` is its wall time, `applied` whether it changed anything."""

    name: str
    ms: float
    applied: bool


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="done"):
    """The host is in the state that was asked for; `changed` is False if it already was.

    `state` is the instance's status, or `up` / `down` for a network.  `replayed`: the request was
    executed before, and this is its first result.  Times are milliseconds: `queued_ms` from issue
    to the start of the first attempt, `took_ms` for all attempts and the waits between them.
    `detail` has facts of the operation (docs/protocol.md).
    """

    op: str
    changed: bool
    state: str
    replayed: bool = False
    attempts: int = 1
    queued_ms: float = 0.0
    took_ms: float = 0.0
    steps: tuple[StepReport, ...] = ()
    detail: dict[str, Any] = msgspec.field(default_factory=dict)


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="pong"):
    """The host answers.  `uptime_s` is the machine's; `queue_depth` counts waiting requests."""

    host: str
    version: str
    boot_id: str
    uptime_s: float
    firecracker_version: str
    queue_depth: int
    op: str = "Ping"


class Failed(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag_field="kind",
    tag="failed",
    rename={"failure_class": "class"},
):
    """The request failed; `failure_class` says what the caller may do.

    `rejected`: the request is wrong.  `conflict`: the host's state forbids it.  `transient`: hostd
    retried and gave up.  `lost`: the guest's memory is lost.  `broken`: a bug or a broken host.
    `code` is `class/name`; it never changes, and docs/runbook.md has an entry for it.  The other
    fields are as in `Done`.
    """

    op: str
    code: str
    failure_class: FailureClass
    message: str
    hint: str = ""
    replayed: bool = False
    attempts: int = 1
    queued_ms: float = 0.0
    took_ms: float = 0.0
    steps: tuple[StepReport, ...] = ()
    detail: dict[str, Any] = msgspec.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f"; {self.hint}" if self.hint else "")


Result = Done | Pong | Failed

_decoder = msgspec.json.Decoder(Result)
_encoder = msgspec.json.Encoder()


def encode_result(result: Result) -> bytes:
    """The JSON of `result`."""
    return _encoder.encode(result)


def decode_result(raw: bytes) -> Result:
    """The result in `raw`.

    Raises:
        msgspec.DecodeError: not a result of this protocol.
    """
    result: Result = _decoder.decode(raw)
    return result
