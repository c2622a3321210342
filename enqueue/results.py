"""What a host answers, as JSON in RQ's return value.

Results are decoded leniently: a newer host may add fields.
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
    """The request is true on the host; `changed` is False if it already was.

    `state` is the instance's status, or `up` / `down` for a network.  `replayed` marks the first
    run's answer to a request that was seen before.  Times are milliseconds; `queued_ms` runs from
    issue to the start of the first attempt, `took_ms` covers all attempts and backoff.
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
    """The host is there.  `uptime_s` is the machine's; `queue_depth` counts waiting requests."""

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
    """The request is not true on the host; `failure_class` says what the caller may do.

    `rejected`: the request is wrong.  `conflict`: the host's state forbids it.  `transient`: hostd
    retried and gave up.  `lost`: memory is gone and cannot be had back.  `broken`: a bug or a
    broken host.  `code` is `class/name`, stable, and has an entry in docs/runbook.md.
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
