"""Only well-formed, signed, current requests for this host are accepted."""

from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import pytest

from enqueue import signing
from enqueue.envelope import Body, encode_body, encode_call
from enqueue.requests import HostName, Ping, RequestId
from enqueue.signing import Signer, load_signer, load_verifier
from worker.errors import Rejected
from worker.protocol.verification import MAX_BYTES, Forged, Policy, check_times, inflated, verify

NOW_MS = 1_800_000_000_000
BODY = Body(
    v=1,
    request_id=RequestId("r-1"),
    host=HostName("h1"),
    issuer="agentd",
    issued_at_ms=NOW_MS,
    not_after_ms=NOW_MS + 1000,
    trace=None,
    request=Ping(),
)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Signer, Policy]:
    signing.generate("k1", private=tmp_path / "k1.private", public=tmp_path / "keys" / "k1.json")
    verifier = load_verifier(tmp_path / "keys")
    policy = Policy(host="h1", verifier=verifier, insecure=False)
    return load_signer(tmp_path / "k1.private"), policy


def signed(signer: Signer, body: bytes) -> bytes:
    return encode_call(body, key_id=signer.key_id, sig=signer.sign(body))


def code(data: bytes, policy: Policy, id_: str = "h1_r-1") -> str:
    with pytest.raises(Forged) as caught:
        verify(data, id_=id_, policy=policy)
    return caught.value.code


def test_a_signed_request_is_verified_and_keeps_its_bytes(keys: tuple[Signer, Policy]) -> None:
    signer, policy = keys
    call = signed(signer, encode_body(BODY))
    order = verify(call, id_="h1_r-1", policy=policy)
    assert order.body == BODY
    assert order.call == call


def test_bytes_that_stock_tools_deflated_are_the_same_request(keys: tuple[Signer, Policy]) -> None:
    signer, policy = keys
    call = signed(signer, encode_body(BODY))
    assert verify(zlib.compress(call), id_="h1_r-1", policy=policy).call == call


def test_one_changed_byte_of_the_body_breaks_the_signature(keys: tuple[Signer, Policy]) -> None:
    signer, policy = keys
    call = signed(signer, encode_body(BODY)).replace(b"agentd", b"agentD")
    assert code(call, policy) == "rejected/bad_signature"


def test_an_unsigned_request_needs_an_insecure_host(keys: tuple[Signer, Policy]) -> None:
    _, policy = keys
    call = encode_call(encode_body(BODY))
    assert code(call, policy) == "rejected/unsigned"
    open_policy = Policy(host="h1", verifier=policy.verifier, insecure=True)
    assert verify(call, id_="h1_r-1", policy=open_policy).body == BODY


def test_even_an_insecure_host_refuses_a_wrong_signature(keys: tuple[Signer, Policy]) -> None:
    _, policy = keys
    open_policy = Policy(host="h1", verifier=policy.verifier, insecure=True)
    call = encode_call(encode_body(BODY), key_id="k1", sig="AAAA")
    assert code(call, open_policy) == "rejected/bad_signature"


def test_another_host_and_another_job_id_are_refused(keys: tuple[Signer, Policy]) -> None:
    signer, policy = keys
    call = signed(signer, encode_body(BODY))
    other = Policy(host="h2", verifier=policy.verifier, insecure=False)
    assert code(call, other) == "rejected/wrong_host"
    assert code(call, policy, id_="h1_r-2") == "rejected/wrong_job_id"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"null",
        b"\x80\x04\x95",
        b'["os.system",null,["id"],{}]',
        b'["hostd.execute",null,[{"key_id":"","sig":"","body":{}}],{"x":1}]',
        b'["hostd.execute",null,[{"key_id":"","sig":"","body":{},"more":1}],{}]',
        b"[" * 50_000,
        b'["hostd.execute",null,[{"key_id":"","sig":"","body":"\xff"}],{}]',
    ],
)
def test_malformed_data_is_refused(data: bytes, keys: tuple[Signer, Policy]) -> None:
    _, policy = keys
    insecure = Policy(host="h1", verifier=policy.verifier, insecure=True)
    assert code(data, insecure) == "rejected/malformed"


def test_a_zip_bomb_is_inflated_only_to_the_limit() -> None:
    bomb = zlib.compress(b"[" + b" " * (64 * MAX_BYTES))
    assert len(bomb) < MAX_BYTES
    with pytest.raises(Forged, match="inflates to more"):
        inflated(bomb)
    with pytest.raises(Forged, match="the limit is"):
        inflated(b"[" * (MAX_BYTES + 1))


def test_unknown_fields_in_a_body_are_refused(keys: tuple[Signer, Policy]) -> None:
    signer, policy = keys
    extended = msgspec.json.decode(encode_body(BODY)) | {"extra": 1}
    assert code(signed(signer, msgspec.json.encode(extended)), policy) == "rejected/malformed"


@pytest.mark.parametrize(
    ("changes", "now_ms", "expected"),
    [
        ({}, NOW_MS + 1000 + 30_001, "rejected/expired"),
        ({"not_after_ms": NOW_MS + 8 * 86_400_000}, NOW_MS, "rejected/lifetime"),
        ({}, NOW_MS - 30_001, "rejected/from_the_future"),
    ],
)
def test_time_limits_allow_thirty_seconds_of_skew(
    changes: dict[str, int], now_ms: int, expected: str
) -> None:
    body = msgspec.structs.replace(BODY, **changes)
    with pytest.raises(Rejected) as caught:
        check_times(body, now_ms=now_ms)
    assert caught.value.code == expected
    check_times(BODY, now_ms=NOW_MS + 1000 + 30_000)
    check_times(BODY, now_ms=NOW_MS - 30_000)
