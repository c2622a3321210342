"""The life of an instance whose tenant has a disk key, with the kernel's device mapper."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enqueue import HostClient
from enqueue.requests import (
    DestroyInstance,
    Request,
    SleepInstance,
    StartInstance,
    StopInstance,
    WakeInstance,
)
from enqueue.results import Done, Failed, Result
from tests.fixtures.worker import HOST, TENANT, HostdProcess, ids
from worker.linux import device_mapper as mapper
from worker.linux import luks_header
from worker.model.names import InstanceRef, mapper_name

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.dm]
BOUND_S = 240.0


def ask(client: HostClient, request: Request) -> Result:
    return client.enqueue(request, host=HOST).wait(timeout_s=BOUND_S)


def done(client: HostClient, request: Request) -> Done:
    result = ask(client, request)
    assert isinstance(result, Done), result
    return result


def key_of(hostd: HostdProcess) -> Path:
    path = hostd.layout.disk_key(TENANT)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return path


def is_open(ref: InstanceRef) -> bool:
    return mapper.mapped(mapper_name(ref)) is not None


@pytest.mark.timeout(900)
def test_an_encrypted_disk_is_open_while_its_guest_lives_and_wiped_with_a_receipt(
    device_mapper: None, hostd: HostdProcess
) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000000e")
    key_of(hostd)
    disk = hostd.layout.volumes(ref) / "data.ext4"
    done(client, StartInstance(**ids(ref)))
    assert is_open(ref)
    header = luks_header.read_header(disk)
    assert header is not None
    done(client, StopInstance(**ids(ref)))
    assert not is_open(ref)
    done(client, StartInstance(**ids(ref)))
    assert is_open(ref)
    assert luks_header.read_header(disk) == header

    destroyed = done(client, DestroyInstance(**ids(ref), wipe_volumes=True))
    assert not is_open(ref)
    assert not disk.exists()
    lines = {line["file"]: line for line in destroyed.detail["wiped"]["disks"]}
    assert lines["data.ext4"]["method"].startswith("luks_erase+")
    assert lines["data.ext4"]["keyslots_left"] == 0


@pytest.mark.timeout(900)
def test_a_woken_guest_has_its_encrypted_disk_again(
    device_mapper: None, hostd: HostdProcess
) -> None:
    client, ref = hostd.client(), hostd.instance("i-0000000f")
    key = key_of(hostd)
    done(client, StartInstance(**ids(ref)))
    slept = ask(client, SleepInstance(**ids(ref)))
    if isinstance(slept, Failed) and slept.code == "conflict/storage_not_encrypted":
        done(client, DestroyInstance(**ids(ref), wipe_volumes=True))
        pytest.skip("the tests' filesystem cannot encrypt sleep images")
    assert isinstance(slept, Done), slept
    assert not is_open(ref)
    hidden = key.rename(key.with_name("hidden"))
    assert isinstance(ask(client, WakeInstance(**ids(ref))), Failed)
    assert not is_open(ref)
    hidden.rename(key)
    done(client, WakeInstance(**ids(ref)))
    assert is_open(ref)
    done(client, DestroyInstance(**ids(ref), wipe_volumes=True))
    assert not is_open(ref)
