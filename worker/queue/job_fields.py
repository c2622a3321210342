"""Fields of RQ's hashes and streams, as rq 3.0 writes them.  Pure."""

from __future__ import annotations

import base64
import re
import zlib
from typing import Any, Final

import msgspec

from enqueue import envelope
from enqueue.requests import describe
from enqueue.results import Failed, Result, encode_result
from enqueue.times import format_rq
from worker.protocol.delivery import Delivery

RESULT_SUCCESSFUL: Final = 1  # rq.results.Result.Type
RESULT_FAILED: Final = 2
RQ_TIME: Final = re.compile(r"\d{4}-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d(\.\d{1,6})?Z")


def outcome_fields(status: str, began_s: float, ended_s: float, worker_name: str) -> dict[Any, Any]:
    """How a job ended; times are Unix seconds."""
    return {
        "status": status,
        "started_at": format_rq(began_s * 1000),
        "ended_at": format_rq(ended_s * 1000),
        "worker_name": worker_name,
    }


def whole_job(delivery: Delivery, queue_name: str, began_s: float) -> dict[Any, Any]:
    """The other fields that stock tools read, so that the job is complete even if Redis lost it."""
    return {
        "data": delivery.data,
        "origin": queue_name,
        "description": _description(delivery.data),
        "created_at": _time_or(delivery.created_at, began_s),
        "enqueued_at": _time_or(delivery.enqueued_at, began_s),
        "timeout": 0,
    }


def stream_fields(result: Result, worker_name: str) -> dict[Any, Any]:
    """An entry of RQ's result stream: `rq.results.Result.serialize`."""
    failed = isinstance(result, Failed)
    fields: dict[Any, Any] = {
        "type": RESULT_FAILED if failed else RESULT_SUCCESSFUL,
        "worker_name": worker_name,
        "return_value": base64.b64encode(encode_result(result)),
    }
    if failed:
        fields["exc_string"] = base64.b64encode(zlib.compress(str(result).encode()))
    return fields


def _time_or(given: bytes, wall_s: float) -> str:
    """A time of RQ's as it came, if stock tools can read it."""
    text = given.decode("ascii", "replace")
    return text if RQ_TIME.fullmatch(text) else format_rq(wall_s * 1000)


def _description(call: bytes) -> str:
    try:
        return describe(envelope.decode_body(envelope.decode_call(call).body).request)
    except msgspec.DecodeError:
        return "unreadable request"
