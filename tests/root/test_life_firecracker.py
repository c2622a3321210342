"""The same life under the real Firecracker and jailer, on real memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from enqueue.requests import (
    DestroyInstance,
    Ping,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from enqueue.results import Done, Pong, Result
from tests.fixtures.worker import HOST, TENANT, HostdMaker, HostdProcess, eventually, ids
from worker.demo import documents

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.kvm, pytest.mark.firecracker]
WAIT_S = 60.0


@pytest.fixture
def real(make_hostd: HostdMaker, guest_kernel: Path) -> HostdProcess:
    binaries = os.environ.get("HOSTD_FIRECRACKER"), os.environ.get("HOSTD_JAILER")
    if not all(binaries):
        pytest.skip("needs HOSTD_FIRECRACKER and HOSTD_JAILER")
    process = make_hostd(
        vmm={"simulate": False, "firecracker": binaries[0], "jailer": binaries[1], "console": True}
    )
    revision = process.layout.artifacts(TENANT, documents.POOL) / "current"
    (revision / "vmlinux").write_bytes(guest_kernel.read_bytes())
    process.start()
    return process


def test_start_sleep_wake_twice_stop_destroy(real: HostdProcess) -> None:
    client, ref = real.client(), real.instance("i-0000f001")

    def done(request: StartInstance | StopInstance | SleepInstance | WakeInstance) -> Result:
        result = client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)
        assert isinstance(result, Done), result
        assert result.changed
        return result

    pong = client.enqueue(Ping(), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(pong, Pong)
    assert pong.firecracker_version[0].isdigit()
    done(StartInstance(**ids(ref)))
    for _ in range(2):
        done(SleepInstance(**ids(ref)))
        done(WakeInstance(**ids(ref)))
    done(StopInstance(**ids(ref)))
    destroyed = client.enqueue(DestroyInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(destroyed, Done)


def test_a_kill_of_hostd_in_the_middle_of_a_real_sleep_loses_nothing(real: HostdProcess) -> None:
    client, ref = real.client(), real.instance("i-0000f002")
    started = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(started, Done), started
    ticket = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    jail = real.layout.jail_base(ref)
    eventually(
        lambda: any(path.stat().st_size for path in jail.rglob("snapshot/vmstate")),
        "the image is being written",
    )
    real.restart()
    slept = ticket.wait(timeout_s=WAIT_S)
    assert isinstance(slept, Done), slept
    assert slept.state == "sleeping"
    woken = client.enqueue(WakeInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(woken, Done), woken


def test_a_compressed_image_of_a_real_guest_wakes(real: HostdProcess) -> None:
    pool = real.layout.pool(TENANT, documents.POOL) / "pool.json"
    pool.write_text(json.dumps(json.loads(pool.read_text()) | {"snapshot_compression": "zstd"}))
    client, ref = real.client(), real.instance("i-0000f003")
    for request in (StartInstance(**ids(ref)), SleepInstance(**ids(ref))):
        result = client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)
        assert isinstance(result, Done), result
    image = real.layout.images(ref) / "sleep"
    manifest = json.loads((image / "manifest.json").read_text())
    assert manifest["memory"]["size_bytes"] == documents.MEM_MIB << 20
    assert not (image / "mem.bin").exists()
    woken = client.enqueue(WakeInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(woken, Done), woken
    assert "memory_unpacked" in {step.name for step in woken.steps if step.applied}
