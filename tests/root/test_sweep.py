"""The sweep on the real kernel: what carries hostd's mark goes, what only looks like it stays."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue.requests import InstanceId, PoolId, StartInstance, StopInstance, TenantId
from enqueue.results import Done
from tests.fixtures.host_resources import Sleeper
from tests.fixtures.netns import ip
from tests.fixtures.tenants import guest, rules
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from worker.host.cgroups.cgroups import KernelCgroups
from worker.host.cgroups.hierarchies import detect
from worker.host.firewall.firewall import Nft
from worker.linux import mounts
from worker.model.names import InstanceRef
from worker.ports import Limits

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0
GHOST = InstanceRef(TenantId("ghosts"), PoolId("p"), InstanceId("i-0000dead"))
SWEPT = {
    "tap", "bridge", "cgroup", "vmm", "jail", "mount", "rules", "guest_rules", "secrets", "image",
}  # fmt: skip
OFTEN = {"interval_s": 0.2, "grace_s": 0.5}
NEVER = {"interval_s": 3600}


def started(process: HostdProcess, name: str) -> InstanceRef:
    ref = process.instance(name)
    client = process.client()
    result = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    return ref


def document(process: HostdProcess, ref: InstanceRef) -> dict[str, Any]:
    raw = (process.layout.instance(ref) / "instance.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, Any])


def events(process: HostdProcess, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(row[0]) for row in process.rows("SELECT event FROM outbox ORDER BY seq")]
    return [event for event in found if event["event"] == kind]


@contextmanager
def firewall(process: HostdProcess) -> Iterator[Nft]:
    with process.namespace.entered():
        nft = Nft()
        try:
            yield nft
        finally:
            nft.close()


def devices(process: HostdProcess) -> set[str]:
    with process.namespace.entered():
        shown = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    return {link["ifname"] for link in json.loads(shown)}


def tables(process: HostdProcess) -> str:
    with process.namespace.entered():
        return subprocess.run(
            ["nft", "list", "ruleset"], capture_output=True, check=True, text=True
        ).stdout


def lies_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


def join(process: HostdProcess, group: str, pid: int) -> None:
    for mount in detect().mounts():
        directory = mount / process.cgroup / group
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "cgroup.procs").write_text(str(pid))


def leave_marked(process: HostdProcess, sleeper: Sleeper) -> int:
    """A leftover of each kind, of an instance that nobody knows; the pid of its `VMM`."""
    with process.namespace.entered():
        ip("tuntap add tn99i3 mode tap")
        ip(f"link set tn99i3 alias hostd:{GHOST.instance_id}")
        ip("link add br-tenant-99 type bridge")
        ip("link set br-tenant-99 alias hostd:ghosts")
        ip("link set tn99i3 master br-tenant-99")
    with firewall(process) as nft:
        nft.put(rules(99, uplink=""))
        nft.put_guest(guest(99, 3))
    vmm = sleeper()
    KernelCgroups(process.cgroup).put(GHOST.instance_id, Limits(64 << 20, 100_000, 32))
    join(process, GHOST.instance_id, vmm.pid)
    root = process.layout.jail_base(GHOST) / "firecracker" / GHOST.instance_id / "root"
    root.mkdir(parents=True)
    disk = process.layout.volumes(GHOST) / "data.ext4"
    disk.parent.mkdir(parents=True)
    disk.write_bytes(b"a tenant's data")
    mounts.bind_file(disk, root / "data.ext4", read_only=False)
    for name in ("partial-x", "sleep"):
        (process.layout.images(GHOST) / name).mkdir(parents=True)
    (process.runtime / "secrets").mkdir(exist_ok=True)
    (process.runtime / "secrets" / f"{GHOST.instance_id}.ext4").write_bytes(b"secret")
    return vmm.pid


def leave_lookalikes(process: HostdProcess, sleeper: Sleeper) -> int:
    """Things with hostd's names but not its mark, and the other way round; a process's pid."""
    with process.namespace.entered():
        ip("tuntap add tn98i3 mode tap")
        ip("link add tn98i4 type veth peer name tap7")
        ip("link add br-tenant-98 type bridge")
        subprocess.run(["nft", "add", "table", "inet", "hostd2"], check=True)
    other = sleeper()
    join(process, "backup", other.pid)
    (process.layout.pool("acme", "backup") / "instances" / "old" / "jail").mkdir(parents=True)
    (process.layout.instance(GHOST).with_name("i-0000beef") / "jail" / "notes").mkdir(parents=True)
    (process.runtime / "secrets").mkdir(exist_ok=True)
    (process.runtime / "secrets" / "README").touch()
    return other.pid


def assert_lookalikes_stand(process: HostdProcess, pid: int) -> None:
    assert {"tn98i3", "tn98i4", "tap7", "br-tenant-98"} <= devices(process)
    assert "table inet hostd2" in tables(process)
    assert lies_alive(pid)
    assert all((mount / process.cgroup / "backup").is_dir() for mount in detect().mounts())
    assert (process.layout.pool("acme", "backup") / "instances" / "old" / "jail").is_dir()
    notes = process.layout.instance(GHOST).with_name("i-0000beef") / "jail" / "notes"
    assert notes.is_dir()
    assert (process.runtime / "secrets" / "README").exists()


def assert_marked_are_gone(process: HostdProcess) -> None:
    assert not {"tn99i3", "br-tenant-99"} & devices(process)
    with firewall(process) as nft:
        assert 99 not in nft.tenants()
        assert "tn99i3" not in nft.guests()
    assert GHOST.instance_id not in KernelCgroups(process.cgroup).instances()
    assert not process.layout.jail_base(GHOST).exists()
    assert (process.layout.volumes(GHOST) / "data.ext4").read_bytes() == b"a tenant's data"
    assert [path.name for path in process.layout.images(GHOST).iterdir()] == ["sleep"]
    assert not (process.runtime / "secrets" / f"{GHOST.instance_id}.ext4").exists()


def command(process: HostdProcess, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
    """`hostd ... --json`: its exit code, its rows, what it said on the other stream."""
    argv = (sys.executable, "-m", "worker", "--config", str(process.config), *arguments, "--json")
    run = process.spawn(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = run.communicate(timeout=WAIT_S)
    return run.returncode, [json.loads(line) for line in out.splitlines()], err.decode()


def test_a_running_hostd_removes_the_marked_and_nothing_else(
    make_hostd: HostdMaker, sleeper: Sleeper
) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    before = document(process, ref)
    lookalike = leave_lookalikes(process, sleeper)
    stray = leave_marked(process, sleeper)
    eventually(lambda: {e["kind"] for e in events(process, "swept")} >= SWEPT, "all are swept")
    assert_marked_are_gone(process)
    assert_lookalikes_stand(process, lookalike)
    assert not lies_alive(stray)
    assert document(process, ref) == before
    assert lies_alive(before["firecracker_pid"])
    assert before["net"]["tap_dev"] in devices(process)
    assert {event["instance_id"] for event in events(process, "swept")} <= {GHOST.instance_id, None}
    eventually(lambda: 'hostd_orphans{kind="tap"} 0.0' in process.get("/metrics"), "none is left")
    assert 'hostd_swept_total{kind="tap"} 1.0' in process.get("/metrics")


def test_the_command_shows_first_and_removes_only_when_told(
    make_hostd: HostdMaker, sleeper: Sleeper
) -> None:
    process = make_hostd(sweep=NEVER)
    process.start()
    ref = started(process, "i-0000000a")
    before = document(process, ref)
    lookalike, stray = leave_lookalikes(process, sleeper), leave_marked(process, sleeper)
    code, rows, _ = command(process, "sweep", "--dry-run")
    assert code == 0
    # The bridge has the TAP on it yet, and goes with the next look.
    assert {row["kind"] for row in rows} == SWEPT - {"bridge", "rules"}
    assert {row["due_in_s"] for row in rows} == {600.0}
    assert not (process.runtime / "sweep.json").exists()
    code, _, said = command(process, "why", GHOST.instance_id)
    assert code == 1
    assert "it has left cgroup, guest_rules, image, jail" in said
    code, rows, _ = command(process, "sweep", "--apply")
    assert (code, rows) == (0, [])
    assert lies_alive(stray)
    assert {"tn99i3", "br-tenant-99"} <= devices(process)
    gone: list[str] = []
    for _ in range(3):
        code, rows, said = command(process, "sweep", "--apply", "--grace", "0")
        assert code == 0, said
        gone += [row["kind"] for row in rows]
    assert sorted(gone) == sorted(SWEPT)
    assert_marked_are_gone(process)
    assert_lookalikes_stand(process, lookalike)
    assert document(process, ref) == before
    assert lies_alive(before["firecracker_pid"])
    assert {event["by"] for event in events(process, "swept")} == {"operator"}


def test_a_guest_whose_directory_was_deleted_goes_with_all_it_held(make_hostd: HostdMaker) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    known = document(process, ref)
    (process.layout.instance(ref) / "instance.json").unlink()
    held = "SELECT COUNT(*) FROM reservations WHERE key = ? OR owner = ?"
    name = ref.instance_id
    eventually(lambda: process.rows(held, name, name) == [(0,)], "its reservations are free")
    assert not lies_alive(known["firecracker_pid"])
    assert known["net"]["tap_dev"] not in devices(process)
    assert not process.layout.jail_base(ref).exists()
    assert list(process.layout.volumes(ref).iterdir()) != []
    assert "br-tenant-10" in devices(process), "its tenant is on record"


def sweeps(process: HostdProcess) -> float:
    """When the last sweep was, on the monotonic clock."""
    try:
        return float(json.loads((process.runtime / "sweep.json").read_bytes())["at_s"])
    except FileNotFoundError:
        return 0.0


def test_nothing_is_touched_while_a_request_is_unfinished(make_hostd: HostdMaker) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    pid, record = document(process, ref)["firecracker_pid"], process.layout.instance(ref)
    with process.lock_file(ref.instance_id).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ticket = process.client().enqueue(StopInstance(**ids(ref)), host=HOST)
        eventually(lambda: process.state_of(str(ticket.request_id)) == "accepted", "it waits")
        (record / "instance.json").rename(record / "aside")
        begun = sweeps(process)
        eventually(lambda: sweeps(process) > begun + 2, "the grace period is over thrice")
        assert lies_alive(pid)
        (record / "aside").rename(record / "instance.json")
    assert isinstance(ticket.wait(timeout_s=WAIT_S), Done)
    assert events(process, "swept") == []


def test_flushed_rules_are_put_back_while_hostd_runs(make_hostd: HostdMaker) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    tap = document(process, ref)["net"]["tap_dev"]
    with process.namespace.entered():
        subprocess.run(["nft", "flush", "ruleset"], check=True)

    def stand() -> bool:
        with firewall(process) as nft:
            return 10 in nft.tenants() and tap in nft.guests()

    eventually(stand, "the tenant's rules and the guest's stand again")
    stopped = process.client().enqueue(StopInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(stopped, Done)
    with process.namespace.entered():
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    eventually(lambda: "br-tenant-10" in tables(process), "a bridge without guests has its rules")
    eventually(lambda: events(process, "rules_put_back") != [], "it is announced")


def test_a_record_that_lies_is_put_right_though_nobody_saw_the_end(make_hostd: HostdMaker) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    known = document(process, ref)
    os.kill(known["firecracker_pid"], signal.SIGKILL)
    eventually(lambda: len(events(process, "reconciled")) == 1, "its end is on record")
    path = process.layout.instance(ref) / "instance.json"
    path.write_bytes(msgspec.json.encode(known))
    eventually(lambda: len(events(process, "reconciled")) == 2, "the lie is put right")
    assert document(process, ref)["status"] == "stopped"


def test_the_command_removes_nothing_where_another_state_directory_lies(
    make_hostd: HostdMaker,
) -> None:
    process = make_hostd(sweep=OFTEN)
    process.start()
    ref = started(process, "i-0000000a")
    pid = document(process, ref)["firecracker_pid"]
    eventually(lambda: sweeps(process) > 0, "a sweep has written its history")
    first = sweeps(process)
    eventually(lambda: sweeps(process) > first, "that sweep has also recorded the state directory")
    aside = process.base / "aside"
    process.layout.state.rename(aside)
    process.layout.state.mkdir()
    code, _, said = command(process, "sweep", "--apply", "--grace", "0")
    assert code == 1
    assert "conflict/state_moved" in said
    begun = sweeps(process)
    eventually(lambda: sweeps(process) > begun + 2, "the grace period is over thrice")
    assert lies_alive(pid)
    assert events(process, "swept") == []
