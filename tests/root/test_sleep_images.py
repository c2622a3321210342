"""Sleep images under a real `hostd run`: what waits for them, refuses them or packs them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from enqueue import HostClient
from enqueue.requests import Request, SleepInstance, StartInstance, StopInstance, WakeInstance
from enqueue.results import Done, Failed
from tests.fixtures.filesystems import LoopMaker
from tests.fixtures.worker import HOST, TENANT, HostdMaker, HostdProcess, eventually, ids
from worker.demo import documents
from worker.host.firecracker.jail.jail import find_jail
from worker.model.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0


def done(client: HostClient, request: Request) -> Done:
    result = client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    assert result.changed
    return result


def failed(client: HostClient, request: Request, code: str) -> Failed:
    result = client.enqueue(request, host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Failed), result
    assert result.code == code, result
    return result


def edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pool_of(process: HostdProcess) -> Path:
    return process.layout.pool(TENANT, documents.POOL) / "pool.json"


def image_of(process: HostdProcess, ref: InstanceRef) -> Path:
    return process.layout.images(ref) / "sleep"


def slow_down(process: HostdProcess, ref: InstanceRef) -> None:
    """The stand-in's next snapshot takes more than a second."""
    jail = find_jail(process.layout.jail_base(ref), ref.instance_id)
    assert jail is not None
    new = process.base / "simulate.json"
    new.write_text(json.dumps({"slow_snapshot_ms_per_mib": 10}))
    new.rename(jail.root / "simulate.json")


def runs_on(client: HostClient, ref: InstanceRef) -> None:
    """The guest runs: a Start changes nothing."""
    result = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    assert (result.changed, result.state) == (False, "running")


@pytest.mark.parametrize(
    ("then", "end", "action"),
    [(WakeInstance, "running", "InstanceWoken"), (StopInstance, "stopped", "InstanceStopped")],
)
def test_what_comes_while_the_image_is_written_is_served_in_its_turn(
    hostd: HostdProcess, then: Any, end: str, action: str
) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000a001")
    done(client, StartInstance(**ids(ref)))
    slow_down(hostd, ref)
    sleep = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    jail = hostd.layout.jail_base(ref)
    eventually(lambda: any(jail.rglob("snapshot/vmstate")), "the image is being written")
    later = client.enqueue(then(**ids(ref)), host=HOST)
    assert hostd.state_of(sleep.request_id) != "done"
    slept, ended = sleep.wait(timeout_s=WAIT_S), later.wait(timeout_s=WAIT_S)
    assert isinstance(slept, Done), slept
    assert isinstance(ended, Done), ended
    assert (slept.state, slept.attempts) == ("sleeping", 1)
    assert (ended.state, ended.changed) == (end, True)
    audit = (hostd.layout.tenant(TENANT) / "audit.log").read_text()
    assert audit.index("InstanceSlept") < audit.index(action)
    assert list(hostd.layout.images(ref).glob("*")) == []


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_pools_images_are_compressed_and_wake(hostd: HostdProcess, codec: str) -> None:
    edit(pool_of(hostd), snapshot_compression=codec)
    client, ref = hostd.client(), hostd.instance("i-0000a002")
    done(client, StartInstance(**ids(ref)))
    for _ in range(2):
        done(client, SleepInstance(**ids(ref)))
        image = image_of(hostd, ref)
        assert not (image / "mem.bin").exists()
        assert (image / f"mem.bin.{codec}").stat().st_size < documents.MEM_MIB << 18
        done(client, WakeInstance(**ids(ref)))
    assert list(hostd.layout.images(ref).glob("*")) == []


def test_diff_images_are_refused_and_the_guest_runs_on(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000a003")
    done(client, StartInstance(**ids(ref)))
    edit(pool_of(hostd), snapshot_type="Diff")
    refused = failed(client, SleepInstance(**ids(ref)), "conflict/diff_unsupported")
    assert "snapshot_type" in refused.message
    runs_on(client, ref)


def test_an_image_in_delta_form_is_never_loaded_and_the_refusal_says_why(
    hostd: HostdProcess,
) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000a004")
    document = hostd.layout.instance(ref) / "instance.json"
    edit(document, status="sleeping")
    delta = hostd.layout.images(ref) / "delta"
    delta.mkdir(parents=True)
    (delta / "mem").write_bytes(b"pages")
    refused = failed(client, WakeInstance(**ids(ref)), "conflict/no_image")
    assert "delta" in refused.hint
    assert (delta / "mem").exists()


def test_an_image_of_another_machine_is_refused_untouched(hostd: HostdProcess) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000a005")
    done(client, StartInstance(**ids(ref)))
    done(client, SleepInstance(**ids(ref)))
    path = image_of(hostd, ref) / "manifest.json"
    manifest = json.loads(path.read_text())
    for field in ("cpu_model", "kernel", "snapshot_format", "boot_id", "architecture"):
        assert manifest[field], f"the manifest names the {field}"
    assert {drive["drive_id"] for drive in manifest["drives"]} >= {"rootfs", "data", "secrets"}
    assert all(drive["size_bytes"] for drive in manifest["drives"])
    edit(path, cpu_model="9999", kernel="2.6.32")
    refused = failed(client, WakeInstance(**ids(ref)), "conflict/image_incompatible")
    assert "cpu model was 9999" in refused.message
    assert "host kernel was 2.6.32" in refused.message
    assert not hostd.layout.jail_base(ref).exists()
    edit(path, cpu_model=manifest["cpu_model"])
    failed(client, WakeInstance(**ids(ref)), "conflict/image_incompatible")
    hostd.configure(vmm={"wake_across_kernels": True})
    hostd.restart()
    done(client, WakeInstance(**ids(ref)))


def test_a_changed_memory_is_found_before_anything_is_built(make_hostd: HostdMaker) -> None:
    process = make_hostd(images={"digest_memory": True})
    process.start()
    client, ref = process.client(), process.instance("i-0000a006")
    done(client, StartInstance(**ids(ref)))
    done(client, SleepInstance(**ids(ref)))
    with (image_of(process, ref) / "mem.bin").open("r+b") as memory:
        memory.seek(5 << 20)
        byte = memory.read(1)[0]
        memory.seek(5 << 20)
        memory.write(bytes([byte ^ 1]))
    failed(client, WakeInstance(**ids(ref)), "lost/image_damaged")
    assert not process.layout.jail_base(ref).exists()
    done(client, StopInstance(**ids(ref)))
    done(client, StartInstance(**ids(ref)))
    done(client, SleepInstance(**ids(ref)))
    done(client, WakeInstance(**ids(ref)))


@pytest.fixture
def hostd_on(
    loop_ext4: LoopMaker, make_hostd: HostdMaker, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., HostdProcess]:
    """Starts a host whose directories are on an ext4 with these features."""

    def start(*features: str) -> HostdProcess:
        disk = loop_ext4(2048, *features)
        monkeypatch.setattr(tempfile, "tempdir", str(disk.at))
        process = make_hostd()
        process.start()
        return process

    return start


def give_key(process: HostdProcess) -> Path:
    key = process.layout.disk_key(TENANT)
    key.parent.mkdir(mode=0o700, exist_ok=True)
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    return key


def test_a_tenants_key_on_storage_that_cannot_encrypt_refuses_sleep_and_the_guest_runs_on(
    hostd_on: Callable[..., HostdProcess],
) -> None:
    process = hostd_on()
    client, ref = process.client(), process.instance("i-0000a007")
    done(client, StartInstance(**ids(ref)))
    key = give_key(process)
    refused = failed(client, SleepInstance(**ids(ref)), "conflict/storage_not_encrypted")
    assert "tune2fs" in refused.hint
    runs_on(client, ref)
    key.unlink()
    done(client, SleepInstance(**ids(ref)))


def test_a_guest_sleeps_and_wakes_on_encrypted_storage(
    hostd_on: Callable[..., HostdProcess],
) -> None:
    process = hostd_on("encrypt")
    client, ref = process.client(), process.instance("i-0000a008")
    done(client, StartInstance(**ids(ref)))
    give_key(process)
    done(client, SleepInstance(**ids(ref)))
    attributes = subprocess.run(
        ["lsattr", "-d", image_of(process, ref)], capture_output=True, text=True, check=True
    )
    assert "E" in attributes.stdout.split()[0]
    done(client, WakeInstance(**ids(ref)))
