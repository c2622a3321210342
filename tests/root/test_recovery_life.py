"""A guest that ends by itself, a hostd that is killed, a host that reboots: on the real kernel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from enqueue import HostClient
from enqueue.requests import SleepInstance, StartInstance, WakeInstance
from enqueue.results import Done, Failed
from tests.fixtures.worker import HOST, HostdMaker, HostdProcess, eventually, ids
from worker.host.cgroup_kill import signal_all
from worker.host.cgroup_layout import detect
from worker.host.firecracker import mounts
from worker.names import InstanceRef

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0


def document(process: HostdProcess, ref: InstanceRef) -> dict[str, Any]:
    raw = (process.layout.instance(ref) / "instance.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, Any])


def found(process: HostdProcess, kind: str) -> list[dict[str, Any]]:
    """The events of one kind that stand in the ledger, told or not."""
    rows = process.rows("SELECT event FROM outbox ORDER BY seq")
    events = [msgspec.json.decode(row[0]) for row in rows]
    return [event for event in events if event["event"] == kind]


def started(process: HostdProcess, client: HostClient, name: str) -> InstanceRef:
    ref = process.instance(name)
    result = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done), result
    return ref


def taps(process: HostdProcess) -> list[str]:
    with process.namespace.entered():
        shown = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout
    return [link["ifname"] for link in json.loads(shown) if link["ifname"].startswith("tn")]


def packet_rules(process: HostdProcess) -> str:
    with process.namespace.entered():
        listed = subprocess.run(["nft", "list", "table", "bridge", "hostd"], capture_output=True)
    return listed.stdout.decode()


def reboot(process: HostdProcess) -> None:
    """hostd and every VMM killed; namespaces' devices, control groups and /run gone; another boot
    in the ledger's eyes; the disk as it was."""
    process.kill()
    layout = detect()
    for mount in layout.mounts():
        groups = [top for top, _, _ in os.walk(mount / process.cgroup, topdown=False)]
        for group in map(Path, groups):
            eventually(lambda group=group: _emptied(group), f"{group} is gone")  # type: ignore[misc]  # the default binds it early
    for point in mounts.below(process.base):
        mounts.unmount(point)
    subprocess.run(["rm", "-rf", str(process.runtime)], check=True)
    with process.namespace.entered():
        for tap in [*taps(process), "br-tenant-10"]:
            subprocess.run(["ip", "link", "delete", tap], check=False, capture_output=True)
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    # A boot id cannot be changed without a reboot: what hostd remembers of it can.
    process.change("UPDATE notes SET value = 'an earlier boot' WHERE key = 'boot_id'")
    for file in process.base.rglob("*.json"):
        if file.name in ("vmm.json", "spawn.json"):
            file.write_bytes(_of_an_earlier_boot(file.read_bytes()))


def _emptied(group: Path) -> bool:
    signal_all((group,))
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


def _of_an_earlier_boot(raw: bytes) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(raw), "boot_id": "an earlier boot"})


def settled(process: HostdProcess, boot: str = "boot_id") -> bool:
    """Every instance was looked at since hostd started."""
    rows = process.rows("SELECT value FROM notes WHERE key = ?", boot)
    current = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return bool(rows) and rows[0][0] == current


def test_a_guest_that_ends_by_itself_is_noticed_recorded_announced_and_cleaned(
    hostd: HostdProcess,
) -> None:
    client = hostd.client()
    ref = started(hostd, client, "i-0000000a")
    pid = document(hostd, ref)["firecracker_pid"]
    assert taps(hostd) != []
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: document(hostd, ref)["status"] == "stopped", "its end is on record")
    eventually(lambda: found(hostd, "settled") != [], "its end is announced")
    (event,) = found(hostd, "settled")
    assert (event["finding"], event["reason"]) == ("stopped", "guest_exited")
    assert event["ended"] == "killed by SIGKILL"
    assert taps(hostd) == []
    assert not hostd.layout.jail_base(ref).exists()
    assert document(hostd, ref)["firecracker_pid"] is None
    assert "hostd_settled_total" in hostd.get("/metrics")
    again = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(again, Done)
    assert again.changed


def test_a_guest_that_ends_while_hostd_is_away_is_settled_by_the_next_one(
    hostd: HostdProcess,
) -> None:
    client = hostd.client()
    ref, other = started(hostd, client, "i-0000000a"), started(hostd, client, "i-0000000b")
    eventually(lambda: settled(hostd), "hostd knows its boot")
    living = document(hostd, other)["firecracker_pid"]
    pid = document(hostd, ref)["firecracker_pid"]
    hostd.kill()
    rules = packet_rules(hostd)
    with hostd.namespace.entered():
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    os.kill(pid, signal.SIGKILL)
    hostd.start()
    eventually(lambda: document(hostd, ref)["status"] == "stopped", "its end is on record")
    eventually(lambda: len(found(hostd, "settled")) == 2, "both are settled")
    reasons = {event["instance_id"]: event["reason"] for event in found(hostd, "settled")}
    assert reasons == {"i-0000000a": "guest_exited", "i-0000000b": "hostd_restarted"}
    assert document(hostd, other)["status"] == "running"
    assert document(hostd, other)["firecracker_pid"] == living
    tap = document(hostd, other)["net"]["tap_dev"]
    assert f'"{tap}"' in rules
    assert f'"{tap}"' in packet_rules(hostd), "its rules are put back"
    os.kill(living, signal.SIGKILL)
    eventually(lambda: document(hostd, other)["status"] == "stopped", "an adopted one is watched")


def test_after_a_reboot_what_ran_is_stopped_and_what_slept_sleeps_on(hostd: HostdProcess) -> None:
    client = hostd.client()
    ran, slept = started(hostd, client, "i-0000000a"), started(hostd, client, "i-0000000b")
    result = client.enqueue(SleepInstance(**ids(slept)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(result, Done)
    eventually(lambda: settled(hostd), "hostd knows its boot")
    reboot(hostd)
    hostd.start()
    eventually(lambda: settled(hostd), "every instance was looked at")
    assert document(hostd, ran)["status"] == "stopped"
    (event,) = found(hostd, "settled")
    assert (event["instance_id"], event["reason"]) == ("i-0000000a", "host_restarted")
    assert document(hostd, slept)["status"] == "sleeping"
    woken = client.enqueue(WakeInstance(**ids(slept)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(woken, Done), woken


def _failed_sleep(process: HostdProcess, ref: InstanceRef, client: HostClient) -> str:
    """A sleep that failed for want of room; its request id."""
    ticket = client.enqueue(SleepInstance(**ids(ref)), host=HOST)
    result = ticket.wait(timeout_s=WAIT_S)
    assert isinstance(result, Failed)
    assert result.code == "transient/no_space", result
    return str(ticket.request_id)


FULL = {"retry": {"attempts": 1}, "images": {"keep_free_mib": 1 << 30}}
ROOM = {"retry": {"attempts": 1}, "images": {"keep_free_mib": 1}}


def test_a_failed_sleep_is_tried_again_when_hostd_starts(make_hostd: HostdMaker) -> None:
    process = make_hostd(**FULL)
    process.start()
    client = process.client()
    ref = started(process, client, "i-0000000a")
    request_id = _failed_sleep(process, ref, client)
    assert document(process, ref)["status"] == "running"
    process.kill()
    process.configure(**ROOM)
    process.start()
    eventually(lambda: process.state_of(request_id) == "told", "it is told")
    eventually(lambda: document(process, ref)["status"] == "sleeping", "it sleeps")


def test_after_a_reboot_a_failed_sleep_says_that_the_memory_is_lost(
    make_hostd: HostdMaker,
) -> None:
    process = make_hostd(**FULL)
    process.start()
    client = process.client()
    ref = started(process, client, "i-0000000a")
    request_id = _failed_sleep(process, ref, client)
    eventually(lambda: settled(process), "hostd knows its boot")
    reboot(process)
    process.configure(**ROOM)
    process.start()
    eventually(lambda: document(process, ref)["status"] == "stopped", "it is stopped")
    lost = "SELECT code FROM requests WHERE request_id = ?"
    eventually(lambda: process.rows(lost, request_id) == [("lost/memory_lost",)], "it is lost")
    assert process.layout.volumes(ref).exists()
    process.restart()
    eventually(lambda: settled(process), "another start tries nothing again")
    assert process.rows("SELECT runs FROM requests WHERE request_id = ?", request_id) == [(2,)]
