"""Bugs that controllers of Firecracker have had in a guest's life: none of them is in hostd."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.envelope import decode_call, encode_call
from enqueue.keys import job_id
from enqueue.requests import DestroyInstance, InstanceId, StartInstance
from enqueue.results import Done, Failed
from tests.fakes.world import HOST
from tests.fixtures.host_resources import Sleeper
from tests.fixtures.real_host import RealHost, RealHosts
from tests.fixtures.worker import HOST as QUEUE
from tests.fixtures.worker import TENANT, HostdProcess, ids
from tests.root.faults.lives import arranged, carried_out, change_pool, done
from worker.host.agents.vsock import connect
from worker.model.names import InstanceRef
from worker.ports import VmmState
from worker.protocol.delivery import Delivery

pytestmark = pytest.mark.root
WAIT_S = 60.0


@pytest.fixture
def world(real_hosts: RealHosts) -> Iterator[RealHost]:
    """A host with one instance."""
    made = real_hosts()
    yield made
    made.close()


# ---------------------------------------------------------------- shells

INJECTED = ("$(touch pwned)", "x;touch pwned", "`touch pwned`", "a b", "../../etc", "-rf", "\n")


@pytest.mark.parametrize("field", ["tenant_id", "pool_id", "instance_id"])
def test_invalid_ids_are_rejected_before_any_effect(
    world: RealHost, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    valid = world.enqueue(StartInstance(**world.ids), "r")
    world.inbox.clear()
    for number, text in enumerate(INJECTED):
        body = msgspec.json.decode(decode_call(valid.data).body)
        body["request_id"] = f"bad-{number}"
        body["request"][field] = text
        world.inbox.append(
            Delivery(job_id(HOST, f"bad-{number}"), encode_call(msgspec.json.encode(body)))
        )
    world.deliver()
    for number in range(len(INJECTED)):
        (result,) = world.published[job_id(HOST, f"bad-{number}")]
        assert isinstance(result, Failed)
        assert result.failure_class == "rejected"
    assert not list(tmp_path.rglob("pwned"))
    assert world.status() == "created"
    assert list(world.leaks()) == []


def test_paths_with_shell_syntax_are_not_run_by_a_shell(
    real_hosts: RealHosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    world = real_hosts("a b; touch pwned $(touch pwned) '")
    for operation in ("StartInstance", "SleepInstance", "WakeInstance", "StopInstance"):
        done(world, operation)
    world.close()
    assert not list(tmp_path.rglob("pwned"))


# ---------------------------------------------------------------- the guest's agent


def with_agent(world: RealHost, **faults: Any) -> None:
    """The guest has an agent, and runs."""
    change_pool(world, runtime_policy={"drain_timeout_seconds": 1, "graceful_shutdown_seconds": 1})
    world.real.faults = {"agent": True, "agent_faults": ["note"], **faults}
    done(world, "StartInstance")


def test_guest_drains_before_its_pause_and_a_timeout_is_reported(
    world: RealHost,
) -> None:
    paused_when_asked = []
    drain = world.context.host.agents.drain

    def watched(ref: InstanceRef, *, timeout_s: float) -> Any:
        paused_when_asked.append(world.real.state(ref) is VmmState.PAUSED)
        return drain(ref, timeout_s=timeout_s)

    with_agent(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.context.host.agents, "drain", watched)
        slept = carried_out(world, "SleepInstance")
        assert isinstance(slept, Done)
        assert slept.detail["drain"]["outcome"] == "done"
        world.real.faults = {"agent": True, "agent_silent": ["SleepPrep"]}
        done(world, "WakeInstance")
        late = carried_out(world, "SleepInstance")
    assert isinstance(late, Done)
    assert late.detail["drain"]["outcome"] != "done"
    assert paused_when_asked == [False, False]


def test_vsock_connect_command_is_sent_in_one_piece(tmp_path: Path) -> None:
    commands = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "v.sock"))
    listener.listen()
    listener.settimeout(WAIT_S)

    def read_once() -> None:
        connection, _ = listener.accept()
        with connection:
            commands.append(connection.recv(64))  # the first piece, as soon as it is there
            connection.sendall(b"OK 1073741824\n")

    with listener:
        for _ in range(50):
            vmm = threading.Thread(target=read_once)
            vmm.start()
            deadline = time.monotonic() + WAIT_S
            connect(tmp_path / "v.sock", 5252, pid=own_pid(), deadline=deadline).close()
            vmm.join(WAIT_S)
    assert commands == [b"CONNECT 5252\n"] * 50


def own_pid() -> int:
    return int(Path("/proc/self").readlink().name)


# ---------------------------------------------------------------- recorded pids


def test_process_that_reuses_a_recorded_pid_is_not_killed(
    world: RealHost, sleeper: Sleeper
) -> None:
    arranged(world, "SleepInstance")
    victim = sleeper()
    vmm = world.real.pid(world.ref)
    world.real.kill(world.ref, timeout_s=5)
    runtime, document = world.layout.runtime(world.ref), world.layout.instance(world.ref)
    for path in (runtime / "vmm.json", runtime / "fc.pid", document / "instance.json"):
        path.write_text(path.read_text().replace(str(vmm), str(victim.pid)))
    assert world.real.pid(world.ref) is None
    done(world, "StopInstance")
    assert list(world.leaks()) == []
    assert victim.poll() is None


# ---------------------------------------------------------------- races


@pytest.mark.redis
def test_concurrent_starts_share_no_address_and_keep_the_quota(
    hostd: HostdProcess,
) -> None:
    tenant = hostd.layout.tenant(TENANT) / "tenant.json"
    tenant.write_text(json.dumps(json.loads(tenant.read_text()) | {"quotas": {"max_running": 3}}))
    client, refs = hostd.client(), [hostd.instance(f"i-0000120{n}") for n in range(8)]
    documents = [hostd.layout.instance(ref) / "instance.json" for ref in refs]
    tickets = [client.enqueue(StartInstance(**ids(ref)), host=QUEUE) for ref in refs]
    ended = threading.Event()
    torn: list[Exception] = []

    def read_all_the_while() -> None:
        while not ended.is_set():
            for path in documents:
                try:
                    json.loads(path.read_bytes())
                except ValueError as error:
                    torn.append(error)

    reader = threading.Thread(target=read_all_the_while)
    reader.start()
    results = [ticket.wait(timeout_s=WAIT_S) for ticket in tickets]
    ended.set()
    reader.join(WAIT_S)
    assert torn == []
    assert sum(isinstance(result, Done) for result in results) == 3
    assert {r.code for r in results if isinstance(r, Failed)} == {"conflict/quota"}
    places = [json.loads(path.read_bytes()).get("net") for path in documents]
    taken = [place["guest_ip"] for place in places if place]
    assert len(taken) == len(set(taken)) == 3


@pytest.mark.redis
def test_duplicate_request_is_carried_out_once(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-00001210")
    request = StartInstance(**ids(ref))
    for _ in range(2):
        ticket = client.enqueue(request, host=QUEUE, request_id="once")
        assert isinstance(ticket.wait(timeout_s=WAIT_S), Done)
    assert hostd.rows("SELECT attempts FROM requests WHERE request_id = 'once'") == [(1,)]


# ---------------------------------------------------------------- leftovers


def test_secrets_of_a_running_guest_are_on_no_disk(world: RealHost) -> None:
    secret = "a secret of 14 words"
    (world.layout.tenant(world.tenant_id) / "secrets.json").write_text(json.dumps({"s": secret}))
    done(world, "StartInstance")
    holding = [
        path for path in files_below(world.directory) if secret.encode() in path.read_bytes()
    ]
    on_disk = [path for path in holding if path.stat().st_dev == world.directory.stat().st_dev]
    assert len(holding) > len(on_disk), "the guest has them"
    assert [path.name for path in on_disk] == ["secrets.json"]  # agentd's own
    done(world, "StopInstance")
    left = [path for path in files_below(world.directory) if secret.encode() in path.read_bytes()]
    assert left == on_disk


def files_below(directory: Path) -> Iterator[Path]:
    yield from (p for p in directory.rglob("*") if p.is_file() and not p.is_symlink())


def test_stop_and_destroy_leave_nothing_and_a_second_destroy_succeeds(
    world: RealHost,
) -> None:
    arranged(world, "WakeInstance")
    assert world.image() == "whole"
    done(world, "StopInstance")
    assert (world.image(), list(world.leaks())) == ("", [])
    wipe = DestroyInstance(**world.ids, wipe_volumes=True)
    assert isinstance(world.carry_out(wipe), Done)
    left = files_below(world.layout.instance(world.ref))
    assert [path.name for path in left] == ["instance.json"]
    again = world.carry_out(wipe)
    assert isinstance(again, Done)
    assert not again.changed


@pytest.mark.parametrize("call", ["PUT /drives/data", "PUT /actions"])
def test_failed_start_leaves_nothing(world: RealHost, call: str) -> None:
    world.misbehave(routes={call: {"status": 400}})
    result = carried_out(world, "StartInstance")
    assert isinstance(result, Failed)
    assert (world.guest(), list(world.leaks())) == ("stopped", [])
    unknown = DestroyInstance(**{**world.ids, "instance_id": InstanceId("i-ffffffff")})
    assert isinstance(world.carry_out(unknown), Done)
