"""The exact bytes on the queue, and how they are read back."""

from __future__ import annotations

import base64
import uuid
import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest

from enqueue import results
from enqueue.conversation.job import (
    NotAfter,
    SealedRequest,
    job_hash,
    new_request_id,
    read_result,
    seal,
    unseal,
)
from enqueue.envelope import decode_body, decode_call
from enqueue.errors import BadRequest
from enqueue.link import texts
from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    Ping,
    PoolId,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    TenantNet,
    WakeInstance,
)
from enqueue.results import Done, Failed, Pong, Result, StepReport
from enqueue.signing import Signer, Verifier
from enqueue.times import format_rq

NOW_MS = 1_800_000_000_123
DAY_MS = 86_400_000
T, P, ID = TenantId("acme"), PoolId("workers"), InstanceId("i-1a2b3c4d")
NET = TenantNet(
    tenant_net_id=7,
    ipv4_subnet="10.240.7.0/24",
    gateway_ip="10.240.7.1",
    bridge_name="br-tenant-7",
)
IDS = '"tenant_id":"acme","pool_id":"workers","instance_id":"i-1a2b3c4d"'
NET_JSON = (
    '"tenant_id":"acme","net":{"tenant_net_id":7,"ipv4_subnet":"10.240.7.0/24",'
    '"gateway_ip":"10.240.7.1","bridge_name":"br-tenant-7"}'
)
GOLDEN: list[tuple[Request, str]] = [
    (StartInstance(tenant_id=T, pool_id=P, instance_id=ID), f'{{"op":"StartInstance",{IDS}}}'),
    (StopInstance(tenant_id=T, pool_id=P, instance_id=ID), f'{{"op":"StopInstance",{IDS}}}'),
    (
        SleepInstance(tenant_id=T, pool_id=P, instance_id=ID, drain_timeout_secs=30),
        f'{{"op":"SleepInstance",{IDS},"force":false,"drain_timeout_secs":30}}',
    ),
    (
        SleepInstance(tenant_id=T, pool_id=P, instance_id=ID, force=True),
        f'{{"op":"SleepInstance",{IDS},"force":true,"drain_timeout_secs":null}}',
    ),
    (WakeInstance(tenant_id=T, pool_id=P, instance_id=ID), f'{{"op":"WakeInstance",{IDS}}}'),
    (
        DestroyInstance(tenant_id=T, pool_id=P, instance_id=ID, wipe_volumes=True),
        f'{{"op":"DestroyInstance",{IDS},"wipe_volumes":true}}',
    ),
    (SetupNetwork(tenant_id=T, net=NET), f'{{"op":"SetupNetwork",{NET_JSON}}}'),
    (TeardownNetwork(tenant_id=T, net=NET), f'{{"op":"TeardownNetwork",{NET_JSON}}}'),
    (Ping(), '{"op":"Ping"}'),
]


def sealed(
    request: Request = GOLDEN[0][0],
    *,
    host: str = "host-a",
    request_id: str | None = "r-1",
    not_after: NotAfter = None,
    trace: str | None = None,
    signer: Signer | None = None,
) -> SealedRequest:
    return seal(
        request,
        host=host,
        request_id=request_id,
        not_after=not_after,
        issuer="agentd",
        trace=trace,
        signer=signer,
        now_ms=NOW_MS,
    )


@pytest.mark.parametrize(("request_", "json"), GOLDEN, ids=lambda value: str(value)[:24])
def test_each_request_has_its_bytes(request_: Request, json: str) -> None:
    body = (
        '{"v":1,"request_id":"r-1","host":"host-a","issuer":"agentd",'
        f'"issued_at_ms":{NOW_MS},"not_after_ms":{NOW_MS + DAY_MS},"trace":null,"request":{json}}}'
    )
    call = f'["hostd.execute",null,[{{"key_id":"","sig":"","body":{body}}}],{{}}]'
    stored = sealed(request_)
    assert stored.data == call.encode()
    assert bytes(decode_call(stored.data).body) == body.encode()
    assert decode_body(body.encode()).request == request_


def test_the_signature_covers_the_exact_bytes_of_the_body() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    envelope = decode_call(sealed(signer=Signer("agentd-1", key)).data)
    assert envelope.key_id == "agentd-1"
    assert envelope.sig == base64.b64encode(key.sign(bytes(envelope.body))).decode()
    verifier = Verifier({"agentd-1": key.public_key()})
    assert verifier.verifies(envelope.body, key_id="agentd-1", sig=envelope.sig)
    changed = bytes(envelope.body).replace(b"host-a", b"host-b")
    assert not verifier.verifies(changed, key_id="agentd-1", sig=envelope.sig)


@pytest.mark.parametrize(
    ("result", "json"),
    [
        (
            Done(
                op="StartInstance",
                changed=True,
                state="running",
                queued_ms=1.5,
                took_ms=20.0,
                steps=(StepReport(name="tap_present", ms=0.5, applied=True),),
                detail={"guest_ip": "10.240.7.3"},
            ),
            '{"kind":"done","op":"StartInstance","changed":true,"state":"running",'
            '"replayed":false,"attempts":1,"queued_ms":1.5,"took_ms":20.0,'
            '"steps":[{"name":"tap_present","ms":0.5,"applied":true}],'
            '"detail":{"guest_ip":"10.240.7.3"}}',
        ),
        (
            Pong(
                host="host-a",
                version="0.1.0",
                boot_id="b",
                uptime_s=3.5,
                firecracker_version="1.12.0",
                queue_depth=2,
            ),
            '{"kind":"pong","host":"host-a","version":"0.1.0","boot_id":"b","uptime_s":3.5,'
            '"firecracker_version":"1.12.0","queue_depth":2,"op":"Ping"}',
        ),
        (
            Failed(
                op="SleepInstance",
                code="transient/no_space",
                failure_class="transient",
                message="3 bytes are free",
                hint="free some",
            ),
            '{"kind":"failed","op":"SleepInstance","code":"transient/no_space",'
            '"class":"transient","message":"3 bytes are free","hint":"free some",'
            '"replayed":false,"attempts":1,"queued_ms":0.0,"took_ms":0.0,"steps":[],"detail":{}}',
        ),
    ],
    ids=["done", "pong", "failed"],
)
def test_each_result_has_its_bytes(result: Result, json: str) -> None:
    assert results.encode_result(result) == json.encode()
    entry = {b"type": b"1", b"return_value": base64.b64encode(json.encode())}
    assert read_result(sealed(), entry) == result


def test_unknown_fields_of_a_newer_hosts_result_are_ignored() -> None:
    raw = b'{"kind":"done","op":"Ping","changed":false,"state":"up","mood":"good"}'
    assert read_result(sealed(), {b"return_value": base64.b64encode(raw)}) == Done(
        op="Ping", changed=False, state="up"
    )


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({}, "no reason given"),
        ({b"return_value": b"not base64!"}, "no reason given"),
        ({b"return_value": base64.b64encode(b"\x80\x04")}, "no reason given"),
        (
            {b"exc_string": base64.b64encode(zlib.compress(b"Trace\nAbandonedJobError: x\n"))},
            "AbandonedJobError: x",
        ),
        ({b"exc_string": b"AAAA"}, "no reason given"),
    ],
)
def test_an_entry_that_is_not_a_result_becomes_a_failure_with_the_reason(
    entry: dict[bytes, bytes], reason: str
) -> None:
    result = read_result(sealed(), entry)
    assert isinstance(result, Failed)
    assert (result.code, result.op) == ("broken/no_result", "StartInstance")
    assert reason in result.message


def test_a_request_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    made = [uuid.UUID(new_request_id(NOW_MS + n)) for n in range(100)]
    assert {(one.version, one.variant) for one in made} == {(7, uuid.RFC_4122)}
    assert [one.int >> 80 for one in made] == [NOW_MS + n for n in range(100)]
    assert made == sorted(made)


@pytest.mark.parametrize(
    ("not_after", "lifetime_ms"),
    [
        (None, DAY_MS),
        (60, 60_000),
        (0.5, 500),
        (7 * 86_400, 7 * DAY_MS),
        (datetime.fromtimestamp(NOW_MS / 1000, tz=UTC) + timedelta(hours=1), 3_600_000),
        (
            datetime.fromtimestamp(NOW_MS / 1000, tz=timezone(timedelta(hours=5)))
            + timedelta(hours=1),
            3_600_000,
        ),
    ],
)
def test_a_deadline_is_seconds_from_now_or_an_aware_time(
    not_after: NotAfter, lifetime_ms: int
) -> None:
    assert sealed(not_after=not_after).body.not_after_ms == NOW_MS + lifetime_ms


@pytest.mark.parametrize(
    ("not_after", "message"),
    [
        (0, "not within the next 7 days"),
        (-5, "not within the next 7 days"),
        (7 * 86_400 + 1, "not within the next 7 days"),
        (float("nan"), "neither seconds nor a datetime"),
        (float("inf"), "neither seconds nor a datetime"),
        (datetime(2027, 1, 15), "has no time zone"),  # noqa: DTZ001  # what is refused
    ],
)
def test_an_impossible_deadline_is_refused(not_after: NotAfter, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        sealed(not_after=not_after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "Host"}, "host: 'Host' is wrong; it must be 1 to 63 of"),
        ({"host": "a\n"}, "host: 'a.n' is wrong"),
        ({"request_id": ""}, "request_id: '' is wrong; it must be 1 to 64 of"),
        ({"request_id": "x" * 65}, "request_id: 'xxx.* is wrong"),
        ({"trace": "x" * 257}, "trace: 'xxx.*x... is wrong; expected `str"),
        ({"trace": "\ud800"}, "surrogates"),
        ({"request": "ping"}, "request: 'ping' is wrong"),
        ({"request": {"op": "Explode"}}, "Explode"),
        ({"request": object()}, "unsupported"),
        (
            {
                "request": SleepInstance(
                    tenant_id=T, pool_id=P, instance_id=ID, drain_timeout_secs=-1
                )
            },
            "drain_timeout_secs: -1 is wrong",
        ),
    ],
)
def test_a_bad_field_is_named_with_its_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        sealed(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_the_job_has_the_fields_of_rq() -> None:
    stored = sealed()
    assert job_hash(stored, now_ms=NOW_MS) == {
        "status": "queued",
        "data": stored.data,
        "origin": "hostd:host-a",
        "description": "StartInstance acme/workers/i-1a2b3c4d",
        "created_at": "2027-01-15T08:00:00.123000Z",
        "enqueued_at": "2027-01-15T08:00:00.123000Z",
        "timeout": 3600,
        "started_at": "",
        "ended_at": "",
        "last_heartbeat": "",
        "worker_name": "",
        "group_id": "",
        "success_callback_name": "",
        "failure_callback_name": "",
        "stopped_callback_name": "",
    }


def test_times_are_written_as_rq_writes_them() -> None:
    from rq.utils import utcformat, utcparse

    moment = datetime.fromtimestamp(NOW_MS / 1000, tz=UTC)
    assert format_rq(NOW_MS) == utcformat(moment)
    assert utcparse(format_rq(NOW_MS)) == moment


def test_a_stored_job_is_read_back_plain_or_compressed() -> None:
    stored = sealed()
    assert unseal(stored.data) == stored
    assert unseal(zlib.compress(stored.data)) == stored


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[1", b"\x80\x04pickle", zlib.compress(b"0" * 10_000_000), b"\xff\xfe", b"[]"],
)
def test_data_that_is_not_a_request_is_read_back_as_none(data: bytes) -> None:
    assert unseal(data) is None


def test_commands_have_no_numbers_when_they_are_packed() -> None:
    assert texts([("XREAD", "COUNT", 1, b"id")]) == [("XREAD", "COUNT", "1", b"id")]
