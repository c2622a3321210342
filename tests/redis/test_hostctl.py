"""hostctl, run as its users run it, against a real Redis; a fake consumer answers."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enqueue import keys
from enqueue.conversation.job import unseal
from enqueue.envelope import decode_call
from enqueue.hostctl.cli import main
from enqueue.requests import SetupNetwork, SleepInstance
from enqueue.results import Pong
from enqueue.signing import load_verifier
from tests.fixtures.fake_consumer import DONE, FAILED, FakeConsumer
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.redis

HOST = "host-a"
KEYS = keys.HostKeys(HOST)
WHERE = ["acme", "workers", "i-1a2b3c4d"]

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hostctl(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs hostctl against the test's Redis and host: exit code, stdout, stderr."""
    monkeypatch.setenv("HOSTCTL_REDIS", redis_server.url)
    monkeypatch.setenv("HOSTCTL_HOST", HOST)

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def stored(server: RedisServer, request_id: str) -> object:
    data = server.client().hget(keys.job(keys.job_id(HOST, request_id)), "data")
    assert isinstance(data, bytes)
    order = unseal(data)
    assert order is not None
    return order.body.request


@pytest.mark.parametrize(
    ("command", "description"),
    [
        (["start", *WHERE], "StartInstance acme/workers/i-1a2b3c4d"),
        (["stop", *WHERE], "StopInstance acme/workers/i-1a2b3c4d"),
        (["sleep", *WHERE, "--force"], "SleepInstance acme/workers/i-1a2b3c4d force=true"),
        (["wake", *WHERE], "WakeInstance acme/workers/i-1a2b3c4d"),
        (
            ["destroy", *WHERE, "--wipe-volumes"],
            "DestroyInstance acme/workers/i-1a2b3c4d wipe_volumes=true",
        ),
        (
            ["net-up", "acme", "--net-id", "7", "--subnet", "10.240.7.0/24"],
            "SetupNetwork acme 10.240.7.0/24 on br-tenant-7",
        ),
        (
            ["net-down", "acme", "--net-id", "7", "--subnet", "10.240.7.0/24"],
            "TeardownNetwork acme 10.240.7.0/24 on br-tenant-7",
        ),
    ],
)
def test_each_command_enqueues_its_request(
    hostctl: Run, command: list[str], description: str
) -> None:
    code, out, err = hostctl(*command, "--request-id", "r-1")
    assert (code, err) == (0, "")
    assert out == f"{description} on host-a: request r-1 is queued\n"


def test_options_reach_the_request(hostctl: Run, redis_server: RedisServer) -> None:
    hostctl("sleep", *WHERE, "--drain-timeout", "9", "--request-id", "r-1")
    hostctl("net-up", "acme", "--net-id", "7", "--subnet", "10.240.7.0/24", "--request-id", "r-2")
    sleep, net_up = stored(redis_server, "r-1"), stored(redis_server, "r-2")
    assert isinstance(sleep, SleepInstance)
    assert (sleep.force, sleep.drain_timeout_secs) == (False, 9)
    assert isinstance(net_up, SetupNetwork)
    assert net_up.net.gateway_ip == "10.240.7.1"


def test_waiting_shows_the_result_and_exits_0(hostctl: Run, fake_consumer: FakeConsumer) -> None:
    with fake_consumer.answering(DONE):
        code, out, _ = hostctl("start", *WHERE, "--wait", "--timeout", "20")
    assert code == 0
    assert out == "StartInstance acme/workers/i-1a2b3c4d on host-a: running (0 ms)\n"


def test_a_failed_request_exits_1_with_code_message_and_hint(
    hostctl: Run, fake_consumer: FakeConsumer
) -> None:
    with fake_consumer.answering(FAILED):
        code, out, _ = hostctl("start", *WHERE, "--wait", "--timeout", "20")
    assert code == 1
    assert "failed: transient/no_space: 3 bytes are free; free some" in out


def test_json_is_one_document_a_line(hostctl: Run, fake_consumer: FakeConsumer) -> None:
    with fake_consumer.answering(FAILED):
        _, out, err = hostctl("start", *WHERE, "--wait", "--request-id", "r-1", "--json")
    (line,) = out.splitlines()
    document = json.loads(line)
    assert document["request_id"] == "r-1"
    assert document["kind"] == "failed"
    assert document["class"] == "transient"
    assert err == ""


def test_ping_waits_by_itself(hostctl: Run, fake_consumer: FakeConsumer) -> None:
    pong = Pong(
        host=HOST,
        version="0.1.0",
        boot_id="b",
        uptime_s=7.0,
        firecracker_version="Firecracker v1.12.0",
        queue_depth=0,
    )
    with fake_consumer.answering(pong):
        code, out, _ = hostctl("ping", "--timeout", "20")
    assert code == 0
    assert "pong from hostd 0.1.0" in out


def test_a_host_that_does_not_answer_exits_3(hostctl: Run) -> None:
    code, _, err = hostctl("ping", "--timeout", "0.05")
    assert code == 3
    assert "has no result yet: its job is queued" in err


def test_waiting_for_an_earlier_request(hostctl: Run, fake_consumer: FakeConsumer) -> None:
    hostctl("start", *WHERE, "--request-id", "r-1")
    fake_consumer.answer(DONE)
    assert hostctl("wait", "r-1")[:2] == (
        0,
        "StartInstance acme/workers/i-1a2b3c4d on host-a: running (0 ms)\n",
    )
    code, _, err = hostctl("wait", "r-2")
    assert code == 1
    assert "no request r-2 on host-a" in err


def test_retrying_by_id_and_by_kind(
    hostctl: Run, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    for request_id in ("r-1", "r-2"):
        hostctl("sleep", *WHERE, "--request-id", request_id)
        fake_consumer.answer(FAILED)
    hostctl("start", *WHERE, "--request-id", "r-3")
    fake_consumer.answer(FAILED)
    assert hostctl("retry", "r-1")[0] == 0
    assert redis_server.client().lrange(KEYS.queue, 0, -1) == [b"host-a_r-1"]
    assert hostctl("retry", "--op", "SleepInstance")[0] == 0
    assert redis_server.client().lrange(KEYS.queue, 0, -1) == [b"host-a_r-1", b"host-a_r-2"]
    with fake_consumer.answering(DONE, DONE, DONE):
        assert hostctl("retry", "r-3", "--wait", "--timeout", "20")[0] == 0
    assert hostctl("retry", "--op", "SleepInstance") == (
        0,
        "",
        "no failed SleepInstance on host-a\n",
    )


def test_retrying_what_failed_since_a_time_and_only_saying_so(
    hostctl: Run, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    hostctl("sleep", *WHERE, "--request-id", "r-1")
    fake_consumer.answer(FAILED)
    queue = redis_server.client()
    would = (0, "request r-1 on host-a would be retried\n", "")
    for since in ("1h", "2020-01-31T04:00:00Z", "2020-01-31 04:00+02:00"):
        command = ("retry", "--op", "SleepInstance", "--since", since, "--dry-run")
        assert hostctl(*command) == would
    nothing = ("retry", "--op", "SleepInstance", "--since", "2999-01-01", "--dry-run")
    assert hostctl(*nothing) == (0, "", "no failed SleepInstance on host-a\n")
    assert hostctl("retry", "r-1", "--dry-run") == would
    assert queue.lrange(KEYS.queue, 0, -1) == []
    assert hostctl("retry", "--op", "SleepInstance", "--since", "1h")[0] == 0
    assert queue.lrange(KEYS.queue, 0, -1) == [b"host-a_r-1"]
    code, _, err = hostctl("retry", "--op", "SleepInstance", "--since", "yesterday")
    assert code == 2
    assert "'yesterday' is neither a time" in err
    code, _, err = hostctl("retry", "r-1", "--since", "1h")
    assert code == 2
    assert "--since goes with --op" in err


def test_one_request_that_cannot_be_retried_does_not_hold_the_others_back(
    hostctl: Run, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    hostctl("start", *WHERE, "--request-id", "r-1")
    fake_consumer.answer(FAILED)
    hostctl("start", *WHERE, "--request-id", "r-2")
    code, out, err = hostctl("retry", "r-2", "r-3", "r-1")
    assert code == 1
    assert "request r-2 on host-a is queued; only a failed one" in err
    assert "no request r-3 on host-a" in err
    assert "request r-1 is queued" in out
    assert redis_server.client().lrange(KEYS.queue, 0, -1) == [b"host-a_r-2", b"host-a_r-1"]


def test_cancelling_ends_what_waits_and_tells_what_does_not(
    hostctl: Run, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    hostctl("start", *WHERE, "--request-id", "r-1")
    hostctl("start", *WHERE, "--request-id", "r-2")
    hostctl("start", *WHERE, "--request-id", "r-3")
    fake_consumer.answer(DONE)
    fake_consumer.take()
    code, out, _ = hostctl("cancel", "r-1", "r-2", "r-3", "r-4", "--json")
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {"kind": "cancel", "outcome": outcome, "request_id": id_, "host": HOST}
        for id_, outcome in [
            ("r-1", "ended"), ("r-2", "running"), ("r-3", "cancelled"), ("r-4", "unknown"),
        ]
    ]  # fmt: skip
    assert redis_server.client().lrange(KEYS.queue, 0, -1) == []
    assert hostctl("cancel", "r-3") == (0, "request r-3 on host-a: cancelled\n", "")
    assert hostctl("cancel", "r-2")[:2] == (
        1,
        "request r-2 on host-a: is running, not cancelled\n",
    )


def test_cancelling_a_kind_leaves_other_kinds_and_what_runs(
    hostctl: Run, fake_consumer: FakeConsumer, redis_server: RedisServer
) -> None:
    hostctl("start", *WHERE, "--request-id", "r-1")
    fake_consumer.take()
    hostctl("stop", *WHERE, "--request-id", "r-2")
    hostctl("start", *WHERE, "--request-id", "r-3")
    code, out, _ = hostctl("cancel", "--op", "StartInstance")
    assert (code, out) == (0, "request r-3 on host-a: cancelled\n")
    assert redis_server.client().lrange(KEYS.queue, 0, -1) == [b"host-a_r-2"]
    assert hostctl("cancel", "--op", "StartInstance") == (
        0,
        "",
        "no waiting StartInstance on host-a\n",
    )


def test_jobs_shows_what_waits_runs_and_failed(hostctl: Run, fake_consumer: FakeConsumer) -> None:
    assert hostctl("jobs")[2] == "no such requests\n"
    for request_id in ("r-1", "r-2", "r-3", "r-4"):
        hostctl("start", *WHERE, "--request-id", request_id)
    fake_consumer.answer(DONE)
    fake_consumer.answer(FAILED)
    fake_consumer.take()
    _, out, _ = hostctl("jobs", "--json")
    found = {line["request_id"]: line for line in map(json.loads, out.splitlines())}
    assert {id_: line["status"] for id_, line in found.items()} == {
        "r-2": "failed",
        "r-3": "started",
        "r-4": "queued",
    }
    assert found["r-2"]["outcome"] == "transient/no_space"
    assert found["r-4"]["issuer"] == "hostctl"
    _, table, _ = hostctl("jobs", "--failed", "--finished")
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["r-2", "failed"],
        ["r-1", "finished"],
    ]


def test_events_are_shown_after_an_id(hostctl: Run, redis_server: RedisServer) -> None:
    redis = redis_server.client()
    for number in range(3):
        redis.xadd(KEYS.events, {"event": json.dumps({"seq": number})}, id=f"{number + 1}-0")
    _, out, _ = hostctl("events", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": f"{number + 1}-0", "event": {"seq": number}} for number in range(3)
    ]
    assert hostctl("events", "--since", "2-0")[1] == '3-0 {"seq":2}\n'
    assert hostctl("events", "--since", "now")[1] == ""
    code, _, err = hostctl("events", "--since", "yesterday")
    assert code == 3
    assert "Invalid stream ID" in err


def test_a_key_pair_signs_what_the_host_can_verify(
    hostctl: Run, redis_server: RedisServer, tmp_path: Path
) -> None:
    private, public = tmp_path / "private.json", tmp_path / "keys" / "ops.json"
    make = ["keygen", "ops", "--private", str(private), "--public", str(public)]
    assert hostctl(*make)[0] == 0
    code, _, err = hostctl(*make)
    assert code == 2
    assert "exists; move it away first" in err
    assert hostctl("ping", "--key", str(private), "--request-id", "r-1", "--timeout", "0")[0] == 3
    data = redis_server.client().hget("rq:job:host-a_r-1", "data")
    assert isinstance(data, bytes)
    envelope = decode_call(data)
    verifier = load_verifier(tmp_path / "keys")
    assert verifier.verifies(envelope.body, key_id=envelope.key_id, sig=envelope.sig)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["start", "acme", "workers", "nope"], "instance_id: 'nope' is wrong; it must be 'i-'"),
        (["start", "acme", "workers"], "Missing argument 'INSTANCE'"),
        (["start", *WHERE, "--not-after", "0"], "not_after: 0.0 is not within the next 7 days"),
        (["start", *WHERE, "--key", "/nonexistent"], "/nonexistent"),
        (["start", *WHERE, "--redis", "nonsense"], "Redis URL must specify"),
        (["start", *WHERE, "--host", ""], "which host? give --host H or set HOSTCTL_HOST"),
        (["net-up", "a", "--net-id", "7", "--subnet", "10.0.0.1/24"], "has host bits set"),
        (["net-up", "a", "--net-id", "7", "--subnet", "8.8.8.0/24"], "must be a private /24"),
        (["net-up", "a", "--net-id", "5000", "--subnet", "10.0.0.0/24"], "tenant_net_id: 5000"),
        (["retry", "--op", "Sleep"], "'Sleep' is not one of 'StartInstance'"),
        (["retry"], "retry what? give request ids, or --op"),
        (["cancel"], "cancel what? give request ids, or --op"),
        (["cancel", "r-1", "--op", "StopInstance"], "cancel what? give request ids, or --op"),
        (["keygen", "Not_A_Label", "--private", "/nonexistent/a", "--public", "b"], "key id"),
        (["explode"], "No such command 'explode'"),
    ],
)
def test_wrong_usage_exits_2_and_names_the_thing(
    hostctl: Run, redis_server: RedisServer, command: list[str], message: str
) -> None:
    code, out, err = hostctl(*command)
    assert (code, out) == (2, "")
    assert message in err
    assert redis_server.client().dbsize() == 0


def test_an_absent_redis_exits_3_and_says_what_is_known(hostctl: Run, tmp_path: Path) -> None:
    absent = f"unix://{tmp_path}/none.sock"
    code, _, err = hostctl("start", *WHERE, "--redis", absent)
    assert code == 3
    assert "the request was not stored" in err
    code, out, err = hostctl("jobs", "--redis", absent, "--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["error"] == "QueueUnavailable"


def test_an_id_of_another_request_exits_1(hostctl: Run) -> None:
    hostctl("start", *WHERE, "--request-id", "r-1")
    code, _, err = hostctl("stop", *WHERE, "--request-id", "r-1")
    assert code == 1
    assert "already names another request: StartInstance" in err


def test_help_names_no_password(hostctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTCTL_REDIS", "redis://ops:hunter2@redis/0")
    code, out, _ = hostctl("start", "--help")
    assert code == 0
    assert "hunter2" not in out


def test_interrupting_a_wait_says_how_to_go_on(redis_server: RedisServer) -> None:
    parent, child = pty.openpty()
    with os.fdopen(parent, "rb", buffering=0) as screen, os.fdopen(child, "wb") as stderr:
        process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "enqueue.hostctl.cli",
                    "start",
                    *WHERE,
                    "--request-id",
                    "r-1",
                ),
                *("--wait", "--redis", redis_server.url, "--host", HOST),
            ],
            stderr=stderr,
        )
        redis_server.await_blocked()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        shown = screen.read(1 << 16).decode()
    assert "waiting for StartInstance acme/workers/i-1a2b3c4d on host-a: 0 s" in shown
    assert "request r-1 goes on; to wait for it: hostctl wait r-1 --host host-a" in shown
    assert "Traceback" not in shown


def test_following_events_prints_each_as_it_comes(redis_server: RedisServer) -> None:
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "enqueue.hostctl.cli", "events", "--follow", "--since", "now"),
            *("--redis", redis_server.url, "--host", HOST),
        ],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            redis_server.await_blocked()
            redis_server.client().xadd(KEYS.events, {"event": '{"seq":1}'}, id="1-0")
            assert process.stdout.readline() == b'1-0 {"seq":1}\n'
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()  # else the `with` would wait for it for ever


def test_a_reader_that_leaves_early_causes_no_traceback(
    redis_server: RedisServer, fake_consumer: FakeConsumer
) -> None:
    redis = redis_server.client()
    for number in range(2000):
        redis.xadd(KEYS.events, {"event": json.dumps({"seq": number, "pad": "x" * 100})})
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "enqueue.hostctl.cli", "events"),
            *("--redis", redis_server.url, "--host", HOST),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_acl_writes_users_that_wall_hosts_off(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["acl", str(tmp_path), "host-a", "host-b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"] == ["host-a", "host-b"]
    users = (tmp_path / "users.acl").read_text()
    assert "user hostd-host-a on" in users
    assert (tmp_path / "hostd-host-b.password").stat().st_mode & 0o777 == 0o600
    assert main(["acl", str(tmp_path), "Not A Host"]) == 2
