"""The stand-in firecracker through its jailer: states, messages, snapshots."""

from __future__ import annotations

import os
import socket

import pytest

from tests.fixtures.simulator import Simulator, eventually
from tests.fixtures.sleeping import counter, counts_beyond, load_body, moved, sleep

pytestmark = pytest.mark.root

BEFORE = "The requested operation is not supported before starting the microVM."
AFTER = "The requested operation is not supported after starting the microVM."


def test_states_and_refusals_have_firecrackers_words(simulator: Simulator) -> None:
    vmm = simulator.start("a")
    assert vmm.ok("GET", "/") == {
        "id": "a",
        "state": "Not started",
        "vmm_version": "1.16.1",
        "app_name": "Firecracker",
    }
    start = {"action_type": "InstanceStart"}
    create = {"snapshot_path": "/s", "mem_file_path": "/m"}
    assert vmm.fault("PUT", "/actions", start) == (
        "Start microvm error: Cannot start microvm without kernel configuration."
    )
    assert vmm.fault("PATCH", "/vm", {"state": "Paused"}) == BEFORE
    assert vmm.fault("PUT", "/snapshot/create", create) == BEFORE
    assert vmm.fault("PUT", "/foo", {}) == "Invalid request method and/or path: PUT foo."
    vmm.ok("PUT", "/boot-source", {"kernel_image_path": "/kernel"})
    assert vmm.fault("PUT", "/snapshot/load", load_body()) == (
        "Load snapshot error: Loading a microVM snapshot not allowed after configuring "
        "boot-specific resources."
    )
    vmm.ok("PUT", "/actions", start)
    assert vmm.ok("GET", "/")["state"] == "Running"
    assert vmm.fault("PUT", "/actions", start) == AFTER
    assert vmm.fault("PUT", "/snapshot/load", load_body()) == AFTER
    assert vmm.fault("PUT", "/snapshot/create", create) == (
        "Create snapshot error: Cannot save the microVM state: Operation not allowed: "
        "save/restore unavailable while running"
    )
    for _ in range(2):
        vmm.ok("PATCH", "/vm", {"state": "Paused"})
    assert vmm.ok("GET", "/")["state"] == "Paused"


def test_an_eleventh_connection_and_a_long_body_are_refused(simulator: Simulator) -> None:
    vmm = simulator.start("a")
    clients = [socket.socket(socket.AF_UNIX) for _ in range(11)]
    for client in clients:
        client.connect(str(vmm.api))
    assert clients[10].recv(16).startswith(b"HTTP/1.1 503")
    clients[0].sendall(b"PUT /vsock HTTP/1.1\r\nContent-Length: 51201\r\n\r\n")
    reply = clients[0].recv(4096)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"size 51201 is larger than the limit of 51200" in reply
    for client in clients:
        client.close()


def test_the_counter_continues_in_another_process_after_a_load(
    simulator: Simulator,
) -> None:
    first = simulator.boot("a")
    counts_beyond(first, 20)
    sleep(first)
    slept_at = counter(first)
    assert (first.root / "mem").stat().st_size == 8 << 20
    assert (first.root / "mem").stat().st_blocks * 512 >= 8 << 20
    first.kill()
    simulator.vmms.clear()
    moved(simulator, first, "b")
    second = simulator.start("b", "--daemonize", "--new-pid-ns")
    second.ok("PUT", "/serial", {"serial_out_path": "/console"})
    second.ok("PUT", "/snapshot/load", load_body(resume_vm=False))
    assert second.ok("GET", "/")["state"] == "Paused"
    assert (second.root / "vsock").is_socket()
    second.ok("PATCH", "/vm", {"state": "Resumed"})
    eventually(lambda: (second.root / "console").read_text().count("\n") > 1, "console lines")
    lines = (second.root / "console").read_text().split("\n")
    assert slept_at <= int(lines[0]) <= slept_at + 2
    assert second.ok("GET", "/vm/config")["drives"][0]["path_on_host"] == "/disk"


def test_diff_is_sparse_and_loads_alone_only_if_it_is_the_first(simulator: Simulator) -> None:
    first = simulator.boot("a")
    counts_beyond(first, 5)
    sleep(first, "Diff", "1")
    first.ok("PATCH", "/vm", {"state": "Resumed"})
    counts_beyond(first, counter(first) + 5)
    sleep(first, "Diff")
    assert (first.root / "mem").stat().st_size == 8 << 20
    assert (first.root / "mem").stat().st_blocks * 512 < 1 << 20
    first.kill()
    simulator.vmms.clear()
    moved(simulator, first, "b")
    fault = simulator.start("b").fault("PUT", "/snapshot/load", load_body())
    assert "the memory is not that of the state" in fault
    merged = (first.root / "mem1").read_bytes()
    with (first.root / "mem").open("r+b") as diff, (first.root / "whole").open("wb") as whole:
        whole.write(merged)
        at = 0
        while at < 8 << 20:
            try:
                data = os.lseek(diff.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(diff.fileno(), data, os.SEEK_HOLE)
            whole.seek(data)
            whole.write(os.pread(diff.fileno(), at - data, data))
    (first.root / "whole").replace(first.root / "mem")
    moved(simulator, first, "c")
    simulator.start("c").ok("PUT", "/snapshot/load", load_body())


@pytest.mark.parametrize("damage", ["vmstate", "mem", "disk", "vsock"])
def test_a_failed_load_is_answered_and_then_the_vmm_exits_with_1(
    simulator: Simulator, damage: str
) -> None:
    first = simulator.boot("a")
    sleep(first)
    first.kill()
    simulator.vmms.clear()
    moved(simulator, first, "b")
    root = simulator.root("b")
    match damage:
        case "vmstate":
            whole = bytearray((root / "vmstate").read_bytes())
            whole[20] ^= 1
            (root / "vmstate").write_bytes(whole)
        case "mem":
            os.truncate(root / "mem", 4096)
        case "disk":
            (root / "disk").unlink()
        case _:
            (root / "vsock").touch()
    second = simulator.start("b")
    fault = second.fault("PUT", "/snapshot/load", load_body())
    assert fault.startswith("Load snapshot error: Failed to restore from snapshot: ")
    assert second.jailer.wait() == 1


def test_snapshot_of_a_newer_format_is_not_loaded(simulator: Simulator) -> None:
    simulator.faults(version="1.17.0")
    first = simulator.boot("a")
    sleep(first)
    first.kill()
    simulator.vmms.clear()
    simulator.faults(version="1.16.1")
    moved(simulator, first, "b")
    fault = simulator.start("b").fault("PUT", "/snapshot/load", load_body())
    assert fault.endswith("Invalid data version: 11.0.0")
