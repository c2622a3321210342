"""The life of instances: agentd's client, a real `hostd run`, the real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue import HostClient
from enqueue.requests import (
    DestroyInstance,
    Ping,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    WakeInstance,
)
from enqueue.results import Done, Failed, Pong, Result
from tests.fixtures.netns import ip, nft
from tests.fixtures.worker import HOST, NET_ID, TENANT, HostdMaker, HostdProcess, eventually, ids
from worker.demo import documents
from worker.host.cgroups.hierarchies import detect
from worker.linux import mounts
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0


def ask(client: HostClient, request: Request) -> Result:
    return client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)


def done(client: HostClient, request: Request, **expected: Any) -> Done:
    result = ask(client, request)
    assert isinstance(result, Done), result
    for key, value in expected.items():
        assert getattr(result, key) == value, result
    return result


def failed(client: HostClient, request: Request, code: str) -> Failed:
    result = ask(client, request)
    assert isinstance(result, Failed), result
    assert result.code == code, result
    return result


def document(process: HostdProcess, ref: InstanceRef) -> dict[str, Any]:
    raw = (process.layout.instance(ref) / "instance.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, Any])


def links(process: HostdProcess) -> set[str]:
    with process.namespace.entered():
        return {link["ifname"] for link in json.loads(ip("-j link"))} - {"lo"}


def traces(process: HostdProcess) -> list[str]:
    """All traces of a running instance on the machine."""
    groups = [
        str(path) for mount in detect().mounts() for path in (mount / process.cgroup).glob("i-*")
    ]
    mounted = [str(path) for path in mounts.below(process.base) if "jail" in path.parts]
    jails = [str(path) for path in process.base.rglob("jail") if path.is_dir()]
    secrets = [str(path) for path in (process.runtime / "secrets").glob("*.ext4")]
    taps = [name for name in links(process) if name.startswith("tn")]
    return groups + mounted + jails + secrets + taps


def test_a_whole_life_leaves_nothing(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000000a")
    network = SetupNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID))
    done(client, network, changed=True, state="up")
    done(client, network, changed=False)
    assert links(hostd) == {f"br-tenant-{NET_ID}"}

    started = done(client, StartInstance(**ids(ref)), changed=True, state="running")
    assert {step.name for step in started.steps} >= {"tap_present", "vmm_spawned", "guest_booted"}
    record = document(hostd, ref)
    assert record["status"] == "running"
    assert record["tags"] == {"demo": "yes"}, "keys that hostd does not know are kept"
    assert record["net"]["tap_dev"] in links(hostd)
    assert Path(f"/proc/{record['firecracker_pid']}").exists()
    done(client, StartInstance(**ids(ref)), changed=False, state="running")
    done(client, WakeInstance(**ids(ref)), changed=False)
    failed(client, TeardownNetwork(tenant_id=network.tenant_id, net=network.net),
           "conflict/network_in_use")  # fmt: skip

    done(client, SleepInstance(**ids(ref)), changed=True, state="sleeping")
    assert traces(hostd) == []
    assert document(hostd, ref)["firecracker_pid"] is None
    done(client, SleepInstance(**ids(ref)), changed=False)
    failed(client, StartInstance(**ids(ref)), "conflict/instance_sleeping")
    done(client, WakeInstance(**ids(ref)), changed=True, state="running")
    assert list(hostd.layout.images(ref).glob("*")) == [], "an image is used once"

    done(client, StopInstance(**ids(ref)), changed=True, state="stopped")
    assert traces(hostd) == []
    done(client, StopInstance(**ids(ref)), changed=False)
    failed(client, SleepInstance(**ids(ref)), "conflict/not_running")
    failed(client, WakeInstance(**ids(ref)), "conflict/no_image")
    done(client, StartInstance(**ids(ref)), changed=True)

    destroyed = done(client, DestroyInstance(**ids(ref), wipe_volumes=True), state="destroyed")
    assert destroyed.detail["wiped"]["files"] >= 2
    assert traces(hostd) == []
    assert not hostd.layout.volumes(ref).exists()
    done(client, DestroyInstance(**ids(ref), wipe_volumes=True), changed=False)
    failed(client, StartInstance(**ids(ref)), "conflict/destroyed")
    log = (hostd.layout.tenant(TENANT) / "audit.log").read_text().splitlines()
    actions = [json.loads(line)["action"].removeprefix("Instance") for line in log]
    assert actions == ["Started", "Slept", "Woken", "Stopped", "Started", "Destroyed"]
    done(client, TeardownNetwork(tenant_id=network.tenant_id, net=network.net), state="down")
    assert links(hostd) == set()
    with hostd.namespace.entered():
        assert nft("list ruleset").strip() == ""


def test_a_ping_names_the_host(hostd: HostdProcess) -> None:
    pong = ask(hostd.client(), Ping())
    assert isinstance(pong, Pong)
    assert (pong.host, pong.firecracker_version) == (HOST, "1.16.1")


def test_a_data_volume_outlives_stop_and_destroy(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000000b")
    done(client, StartInstance(**ids(ref)))
    disk = hostd.layout.volumes(ref) / "data.ext4"
    inode = disk.stat().st_ino
    done(client, StopInstance(**ids(ref)))
    done(client, StartInstance(**ids(ref)))
    assert disk.stat().st_ino == inode
    done(client, DestroyInstance(**ids(ref)), state="destroyed")
    assert disk.stat().st_ino == inode


def test_guests_run_in_parallel_each_with_its_own_address(hostd: HostdProcess) -> None:
    client = hostd.client()
    refs = [hostd.instance(f"i-0000001{n}") for n in range(4)]
    tickets = [client.enqueue(StartInstance(**ids(ref)), host=HOST) for ref in refs]
    for ticket in tickets:
        assert isinstance(ticket.wait(timeout_s=WAIT_S), Done)
    places = {document(hostd, ref)["net"]["guest_ip"] for ref in refs}
    assert len(places) == len(refs)


def test_a_quota_is_enforced_and_a_sleep_frees_it(hostd: HostdProcess) -> None:
    client = hostd.client()
    path = hostd.layout.tenant(TENANT) / "tenant.json"
    tenant = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    path.write_bytes(msgspec.json.encode(tenant | {"quotas": {"max_running": 1}}))
    one, two = hostd.instance("i-00000021"), hostd.instance("i-00000022")
    done(client, StartInstance(**ids(one)))
    refused = failed(client, StartInstance(**ids(two)), "conflict/quota")
    assert "1 of 1 running instances" in refused.message
    done(client, SleepInstance(**ids(one)))
    done(client, StartInstance(**ids(two)))
    failed(client, WakeInstance(**ids(one)), "conflict/quota")
    done(client, StopInstance(**ids(two)))
    done(client, WakeInstance(**ids(one)))


def test_what_belongs_to_another_tenant_is_refused_and_left_alone(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-00000031")
    documents.write_tenant(hostd.layout, "globex", 20, kernel=b"k")
    other = documents.write_instance(hostd.layout, "globex", "i-00000031")
    done(client, StartInstance(**ids(ref)))
    failed(client, StartInstance(**ids(other)), "conflict/instance_id_taken")
    failed(client, DestroyInstance(**ids(other)), "conflict/instance_id_taken")
    stolen = SetupNetwork(tenant_id=TenantId("thief"), net=documents.net(NET_ID))
    failed(client, stolen, "conflict/network_taken")
    wrong = SetupNetwork(tenant_id=TenantId("globex"), net=documents.net(21))
    failed(client, wrong, "conflict/net_mismatch")
    done(client, StartInstance(**ids(ref)), changed=False)


def test_guests_outlive_a_killed_hostd_and_the_next_one_knows_them(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-00000041")
    done(client, StartInstance(**ids(ref)))
    pid = document(hostd, ref)["firecracker_pid"]
    hostd.restart()
    done(client, StartInstance(**ids(ref)), changed=False)
    assert document(hostd, ref)["firecracker_pid"] == pid
    done(client, StopInstance(**ids(ref)), changed=True)


def test_a_sleep_whose_hostd_was_killed_while_the_image_was_written_is_finished(
    make_hostd: HostdMaker,
) -> None:
    process = make_hostd()
    process.start()
    client, ref = process.client(), process.instance("i-00000051")
    done(client, StartInstance(**ids(ref)))
    ticket = client.enqueue(SleepInstance(**ids(ref)), host=HOST)

    def writing() -> bool:
        jail = process.layout.jail_base(ref)
        return any(path.stat().st_size for path in jail.rglob("snapshot/vmstate"))

    eventually(writing, "the image is being written")
    process.restart()
    result = ticket.wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    assert (result.state, result.attempts) == ("sleeping", 2)
    done(client, WakeInstance(**ids(ref)), state="running")


def test_a_missing_tenant_pool_or_revision_is_named(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-00000061")
    current = hostd.layout.artifacts(TENANT, documents.POOL) / "current"
    target = current.readlink()
    current.unlink()
    failed(client, StartInstance(**ids(ref)), "conflict/no_artifacts")
    current.symlink_to(target)
    pool = hostd.layout.pool(TENANT, documents.POOL) / "pool.json"
    kept = pool.read_bytes()
    pool.write_bytes(b"{")
    assert "pool.json" in failed(client, StartInstance(**ids(ref)), "conflict/bad_document").message
    pool.unlink()
    failed(client, StartInstance(**ids(ref)), "conflict/unknown_pool")
    pool.write_bytes(kept)
    unknown = InstanceRef(ref.tenant_id, ref.pool_id, documents.write_instance(
        hostd.layout, "nobody", "i-00000062").instance_id)  # fmt: skip
    failed(client, StartInstance(**ids(unknown)), "conflict/unknown_instance")
    assert traces(hostd) == []


def test_an_operator_sees_plan_why_and_status(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-00000071")

    def command(*words: str) -> list[dict[str, Any]]:
        with hostd.namespace.entered():
            ran = subprocess.run(
                [sys.executable, "-m", "worker", "--config", str(hostd.config), *words, "--json"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
        return [json.loads(line) for line in ran.stdout.splitlines()]

    words = (ref.tenant_id, ref.pool_id, ref.instance_id)
    before = command("plan", "start", *words)
    assert not any(step["holds"] for step in before if step["step"] == "vmm_spawned")
    assert hostd.rows("SELECT * FROM reservations") == [], "a plan reserves nothing"
    done(client, StartInstance(**ids(ref)))
    assert command("plan", "start", *words) == []
    failed(client, SetupNetwork(tenant_id=TenantId("thief"), net=documents.net(NET_ID)),
           "conflict/network_taken")  # fmt: skip
    (why,) = command("why", ref.instance_id)
    assert (why["status"], why["vmm"], why["lock"]) == ("running", "running", "free")
    assert "StartInstance" in why["last"][0]
    assert why["advice"] == ["nothing: record and host agree"]
    (row,) = command("status")
    assert (row["instance"], row["status"], row["unfinished"]) == (str(ref), "running", 0)
