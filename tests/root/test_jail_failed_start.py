"""A start that fails: what went wrong reaches the result, and nothing is left of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from enqueue.requests import SetupNetwork, StartInstance, StopInstance, TenantId
from enqueue.results import Failed
from tests.contract.test_vmm import until
from tests.fixtures.netns import ip, nft
from tests.fixtures.vmm import REAL, REF, Rig
from tests.fixtures.worker import NET_ID, TENANT, HostdMaker, HostdProcess, ids
from tests.root.test_life import ask, document, done
from worker.demo import documents
from worker.errors import Broken, Transient
from worker.host.cgroups.hierarchies import detect
from worker.host.firecracker.jail import jailer
from worker.host.firecracker.launch import Launch
from worker.linux import mounts, processes
from worker.model.names import jail_uid
from worker.ports import VmmState

pytestmark = pytest.mark.root
ROUNDS = 20


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def zombies() -> set[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    seen = {pid: processes.stat(pid) for pid in pids}
    return {p for p, s in seen.items() if s and s.parent == os.getpid() and s.state == "Z"}


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_twenty_starts_that_fail_leave_no_zombie_and_no_descriptor(driven: Rig) -> None:
    driven.up()  # the first one imports and opens what stays
    driven.vmm.kill(REF, timeout_s=5)
    before, dead = descriptors(), zombies()
    for round_ in range(ROUNDS):
        # Later each time: in the jailer, between its forks, in the VMM before its API is up.
        driven.vmm.build_jail(driven.spec, None)
        hasty = driven.impatient(spawn_timeout_s=0.001 * (round_ + 1))
        try:
            hasty.spawn(driven.spec, driven.join_files)
        except (Transient, Broken):
            assert until(lambda: not jailer.members(driven.join_files))
        else:
            hasty.kill(REF, timeout_s=5)  # it holds the conversation with what it has started
        assert driven.vmm.state(REF) is VmmState.GONE
    assert zombies() <= dead
    assert descriptors() == before


@pytest.mark.parametrize("moment", ["_await_jailer", "_await_pid", "_await_api"])
def test_starts_that_fail_amid_the_jailers_forks_leave_no_zombie(
    driven: Rig, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise Transient("vmm_timeout", "the test lets it fail here")

    monkeypatch.setattr(Launch, moment, fail)
    dead = zombies()
    for _ in range(ROUNDS):
        driven.vmm.build_jail(driven.spec, None)
        with pytest.raises(Transient):
            driven.vmm.spawn(driven.spec, driven.join_files)
        assert not jailer.members(driven.join_files)
    assert zombies() <= dead


def test_twenty_jailers_that_end_by_themselves_leave_no_zombie_and_no_descriptor(
    driven: Rig,
) -> None:
    driven.up()
    driven.vmm.kill(REF, timeout_s=5)  # its jail is used: the jailer stumbles over it
    before, dead = descriptors(), zombies()
    for _ in range(ROUNDS):
        with pytest.raises(Broken):
            driven.vmm.spawn(driven.spec, driven.join_files)
    assert zombies() <= dead
    assert descriptors() == before


def test_unknown_orphans_are_reaped_by_the_name_of_their_program(tmp_path: Path) -> None:
    processes.adopt_orphans()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # as the jailer: a fork in a session of its own that its parent does not await
        Path("/proc/self/comm").write_text("stray-program-of-a-long-name")
        orphan = os.fork()
        if orphan == 0:
            os.setsid()
            os.read(reader, 1)
            os._exit(0)
        os._exit(0)
    os.waitpid(child, 0)
    known = zombies()
    os.write(writer, b"x")
    assert until(lambda: bool(zombies() - known))
    stray = zombies() - known
    processes.reap_strays("another")
    assert stray <= zombies()
    processes.reap_strays("stray-program-of-a-long-name")
    assert not stray & zombies()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("driven_vmm", [REAL], indirect=True)  # stand-ins look at no kernel
def test_an_invalid_kernel_is_refused_with_firecrackers_own_message(
    driven: Rig, tmp_path: Path
) -> None:
    kernel = tmp_path / "no-kernel"
    kernel.write_bytes(b"this is no kernel")
    rig = driven.with_spec(kernel=kernel)
    with pytest.raises(Broken) as refused:
        rig.up()
    assert refused.value.code == "broken/vmm_refused"
    assert "kernel" in refused.value.message.lower()
    assert refused.value.facts["route"] == "PUT /actions"


def inventory(process: HostdProcess) -> dict[str, object]:
    """All that a start could leave: links, rules, control groups, mounts, files, processes."""
    with process.namespace.entered():
        links = {link["ifname"] for link in json.loads(ip("-j link"))}
        rules = nft("list ruleset")
    groups = [
        str(path) for mount in detect().mounts() for path in (mount / process.cgroup).glob("*/")
    ]
    files = [
        str(path.relative_to(process.base))
        for path in sorted(process.base.rglob("*"))
        if not path.name.startswith(("ledger.db", "log")) and "lock" not in path.parts
    ]
    of_jails = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdecimal() and _has_a_jails_uid(entry)
    ]
    mounted = [str(point) for point in mounts.below(process.base)]
    return {
        "links": links, "rules": rules, "groups": groups, "files": files, "mounts": mounted,
        "processes": of_jails,
    }  # fmt: skip


def _has_a_jails_uid(process: Path) -> bool:
    try:
        uid = process.stat().st_uid
    except OSError:
        return False
    return jail_uid(10_000, NET_ID, 0) <= uid < jail_uid(10_000, NET_ID + 1, 0)


@pytest.mark.redis
def test_a_start_that_firecracker_refuses_tells_why_and_leaves_nothing(
    make_hostd: HostdMaker,
) -> None:
    process = make_hostd()
    process.start()
    client = process.client()
    done(client, SetupNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID)))
    ref = process.instance("i-000000a1")
    # What a first start may keep: the data volume, and what every start of the host makes.
    done(client, StartInstance(**ids(ref)))
    done(client, StopInstance(**ids(ref)))
    before, status = inventory(process), document(process, ref)["status"]
    refusal = {"status": 400, "message": "Cannot load kernel due to invalid memory configuration"}
    fault = {"routes": {"PUT /actions": refusal}}
    simulated = process.runtime / "simulator" / "simulate.json"
    simulated.write_text(json.dumps(fault))
    result = ask(client, StartInstance(**ids(ref)))
    assert isinstance(result, Failed)
    assert result.code == "broken/vmm_refused"
    assert "Cannot load kernel" in result.message
    assert inventory(process) == before
    assert document(process, ref)["status"] == status
