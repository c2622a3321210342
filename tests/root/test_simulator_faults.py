"""Exits, injected faults, and the guest behind vsock."""

from __future__ import annotations

import json
import socket
import struct

import pytest

from tests.fixtures.simulator import Simulator, Vmm, eventually
from tests.fixtures.sleeping import counter, counts_beyond, load_body, sleep

pytestmark = pytest.mark.root


def replace_faults(vmm: Vmm, text: str) -> None:
    """Sets the VMM's faults from the next request on."""
    (vmm.root / "simulate.new").write_text(text)
    (vmm.root / "simulate.new").replace(vmm.root / "simulate.json")


def dial(vmm: Vmm, *parts: bytes) -> socket.socket:
    """Connects to the guest's vsock and sends the parts one by one; the connection."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(vmm.root / "vsock"))
    for part in parts:
        client.sendall(part)
    return client


def exchange(client: socket.socket, message: bytes) -> bytes:
    """Sends a message; the body of the frame that answers it."""
    client.sendall(struct.pack(">I", len(message)) + message)
    (size,) = struct.unpack(">I", client.recv(4, socket.MSG_WAITALL))
    return client.recv(size, socket.MSG_WAITALL)


def test_bodies_are_refused_in_the_words_of_firecrackers_reader(simulator: Simulator) -> None:
    vmm = simulator.start("a")
    prefix = "An error occurred when deserializing the json body of a request: "
    assert vmm.fault("PUT", "/boot-source", {"kernel_image_path": "k", "bogus": 1}) == (
        f"{prefix}unknown field `bogus`, expected one of `kernel_image_path`, `initrd_path`, "
        "`boot_args` at line 1 column 34."
    )
    assert vmm.fault("PUT", "/machine-config", {"vcpu_count": 1}) == (
        f"{prefix}missing field `mem_size_mib` at line 1 column 17."
    )
    assert vmm.fault("PUT", "/snapshot/load", load_body(huge_pages="None")).startswith(
        f"{prefix}unknown field `huge_pages`"
    )
    assert vmm.ok("GET", "/")["state"] == "Not started"
    assert vmm.fault("PUT", "/boot-source", {"kernel_image_path": "/no"}) == (
        "Boot source error: The kernel file cannot be opened: No such file or directory "
        "(os error 2)"
    )


def test_ctrl_alt_del_shuts_the_guest_down_with_code_0_unless_it_ignores_the_keys(
    simulator: Simulator,
) -> None:
    keys = {"action_type": "SendCtrlAltDel"}
    vmm = simulator.boot("a")
    vmm.ok("PUT", "/actions", keys)
    assert vmm.jailer.wait() == 0
    simulator.faults(ignore_ctrl_alt_del=True)
    deaf = simulator.boot("b")
    deaf.ok("PUT", "/actions", keys)
    counts_beyond(deaf, counter(deaf) + 20)


def test_file_size_limit_kills_a_snapshot_with_code_151(jails: Simulator) -> None:
    vmm = jails.boot("a", "--resource-limit", "fsize=4194304")
    with pytest.raises((ConnectionError, OSError)):
        sleep(vmm)
    assert vmm.jailer.wait() == 151


def test_vmm_dies_where_a_fault_says_so(simulator: Simulator) -> None:
    simulator.faults(die_before_socket=True, exit_code=148)
    vmm = simulator.spawn("a")
    assert vmm.jailer.wait() == 148
    assert not vmm.api.exists()
    simulator.faults(die_after_socket=True)
    vmm = simulator.spawn("b")
    assert vmm.jailer.wait() == 150
    assert vmm.api.is_socket()
    simulator.faults(die_in_snapshot=True)
    vmm = simulator.boot("c")
    with pytest.raises((ConnectionError, OSError)):
        sleep(vmm)
    assert vmm.jailer.wait() == 150
    assert (vmm.root / "vmstate").stat().st_size > 100
    assert (vmm.root / "mem").stat().st_size == 4 << 20
    simulator.faults(die_after_snapshot=True)
    vmm = simulator.boot("d")
    sleep(vmm)
    assert vmm.jailer.wait() == 150
    assert (vmm.root / "mem").stat().st_size == 8 << 20


def test_vmm_dies_of_a_request_and_in_a_slow_snapshot(simulator: Simulator) -> None:
    simulator.faults(routes={"PATCH /vm": {"exit": 149}})
    vmm = simulator.boot("a")
    with pytest.raises((ConnectionError, OSError)):
        vmm.call("PATCH", "/vm", {"state": "Paused"})
    assert vmm.jailer.wait() == 149
    simulator.faults(slow_snapshot_ms_per_mib=60_000)
    vmm = simulator.boot("b")
    vmm.ok("PATCH", "/vm", {"state": "Paused"})
    body = json.dumps({"snapshot_path": "/vmstate", "mem_file_path": "/mem"})
    request = f"PUT /snapshot/create HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(vmm.api))
        client.sendall(request.encode())
        memory = vmm.root / "mem"
        eventually(lambda: memory.exists() and memory.stat().st_blocks, "memory is written")
        vmm.kill()
        simulator.vmms.pop()
        assert client.recv(1) == b""
    assert 0 < memory.stat().st_blocks * 512 < memory.stat().st_size == 8 << 20


def test_routes_fail_and_hang_as_configured_and_a_file_in_the_jail_changes_that(
    simulator: Simulator,
) -> None:
    simulator.faults(routes={"PUT /snapshot/create": {"status": 400, "message": "no luck"}})
    vmm = simulator.boot("a")
    vmm.ok("PATCH", "/vm", {"state": "Paused"})
    create = {"snapshot_path": "/vmstate", "mem_file_path": "/mem"}
    assert vmm.fault("PUT", "/snapshot/create", create) == "no luck"
    replace_faults(vmm, '{"no_space_in_snapshot": true}')
    assert "No space left on device" in vmm.fault("PUT", "/snapshot/create", create)
    replace_faults(vmm, '{"routes": {"GET /": {"hang": true}}}')
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(0.2)
    client.connect(str(vmm.api))
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with client, pytest.raises(TimeoutError):
        client.recv(1)
    assert not vmm.gone()


def test_vsock_hangs_up_without_a_listener_and_on_a_partial_command(simulator: Simulator) -> None:
    simulator.faults(agent=True)
    vmm = simulator.boot("a")
    for parts in ([b"CONNECT 999\n"], [b"CONNECT"]):
        with dial(vmm, *parts) as client:
            assert client.recv(1) == b""


def test_guest_agent_says_hello_and_drains_and_is_cut_off_by_a_snapshot(
    simulator: Simulator,
) -> None:
    simulator.faults(agent=True)
    vmm = simulator.boot("a")
    hello = (
        b'{"ProtocolHello":{"host_protocol_version":1,"min_supported_version":1,'
        b'"host_version":"x","requested_capabilities":["ping"]}}'
    )
    with dial(vmm, b"CONNECT 5252\n") as client:
        assert client.recv(64).startswith(b"OK 10737418")
        assert b'"capabilities": ["ping"]' in exchange(client, hello)
        reply = exchange(client, b'{"SleepPrep":{"drain_timeout_secs":1}}')
        assert reply == b'{"SleepPrepAck": {"success": true, "detail": null}}'
    with dial(vmm, b"CONNECT 5252\n") as client:
        assert client.recv(3) == b"OK "
        sleep(vmm)
        while client.recv(64):
            pass
    vmm.ok("PATCH", "/vm", {"state": "Resumed"})
    with dial(vmm, b"CONNECT 7000\n") as client:
        assert client.recv(3) == b"OK "
        answer = b""
        while more := client.recv(64):
            answer += more
        assert int(answer.split(b"\n")[1]) > 0
