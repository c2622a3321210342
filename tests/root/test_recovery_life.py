"""A guest that ends by itself, a hostd that is killed, a host that reboots: on the real kernel."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from enqueue.requests import SleepInstance, StartInstance, WakeInstance
from enqueue.results import Done
from tests.fixtures.recovery import (
    all_reconciled,
    document,
    found,
    packet_rules,
    reboot,
    started,
    taps,
)
from tests.fixtures.worker import HOST, HostdProcess, eventually, ids

pytestmark = [pytest.mark.root, pytest.mark.redis]
WAIT_S = 60.0


def test_a_guest_that_ends_by_itself_is_noticed_recorded_announced_and_cleaned(
    hostd: HostdProcess,
) -> None:
    client = hostd.client()
    ref = started(hostd, client, "i-0000000a")
    pid = document(hostd, ref)["firecracker_pid"]
    assert taps(hostd) != []
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: document(hostd, ref)["status"] == "stopped", "its end is on record")
    eventually(lambda: found(hostd, "reconciled") != [], "its end is announced")
    (event,) = found(hostd, "reconciled")
    assert (event["finding"], event["reason"]) == ("stopped", "guest_exited")
    assert event["ended"] == "killed by SIGKILL"
    assert taps(hostd) == []
    assert not hostd.layout.jail_base(ref).exists()
    assert document(hostd, ref)["firecracker_pid"] is None
    assert "hostd_reconciled_total" in hostd.get("/metrics")
    again = client.enqueue(StartInstance(**ids(ref)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(again, Done)
    assert again.changed


def test_a_guest_that_ends_while_hostd_is_away_is_reconciled_by_the_next_one(
    hostd: HostdProcess,
) -> None:
    client = hostd.client()
    ref, other = started(hostd, client, "i-0000000a"), started(hostd, client, "i-0000000b")
    eventually(lambda: all_reconciled(hostd), "hostd knows its boot")
    living = document(hostd, other)["firecracker_pid"]
    pid = document(hostd, ref)["firecracker_pid"]
    hostd.kill()
    rules = packet_rules(hostd)
    with hostd.namespace.entered():
        subprocess.run(["nft", "flush", "ruleset"], check=True)
    os.kill(pid, signal.SIGKILL)
    hostd.start()
    eventually(lambda: document(hostd, ref)["status"] == "stopped", "its end is on record")
    eventually(lambda: len(found(hostd, "reconciled")) == 2, "both are reconciled")
    reasons = {event["instance_id"]: event["reason"] for event in found(hostd, "reconciled")}
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
    eventually(lambda: all_reconciled(hostd), "hostd knows its boot")
    reboot(hostd)
    hostd.start()
    eventually(lambda: all_reconciled(hostd), "every instance was looked at")
    assert document(hostd, ran)["status"] == "stopped"
    (event,) = found(hostd, "reconciled")
    assert (event["instance_id"], event["reason"]) == ("i-0000000a", "host_restarted")
    assert document(hostd, slept)["status"] == "sleeping"
    woken = client.enqueue(WakeInstance(**ids(slept)), host=HOST).wait(timeout_s=WAIT_S)
    assert isinstance(woken, Done), woken
