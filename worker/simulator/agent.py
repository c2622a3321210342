"""The guest's side of a vsock connection: a guest agent, and a port that tells the counter.

Frames: 4 bytes of length, big-endian, then JSON of at most 262,144 bytes.  Hello first, then one
operation a connection.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from worker.simulator.faults import Faults
from worker.simulator.guest import Guest

AGENT_PORT, COUNTER_PORT = 5252, 7000
FRAME_MAX = 262_144
PROTOCOL = 1
CAPABILITIES = ["ping", "sleep_prep", "wake", "worker_status", "post_restore"]


def serve(
    connection: socket.socket, port: int, host_port: int, guest: Guest, faults: Faults
) -> None:
    """The connection is served to its end; nobody listens on a port but the two, if enabled."""
    if not faults.agent or port not in (AGENT_PORT, COUNTER_PORT):
        return
    guest.wait_until_running()
    connection.sendall(b"OK %d\n" % host_port)
    if port == COUNTER_PORT:
        connection.sendall(b"%d\n" % guest.counter)
        return
    hello = _receive(connection)
    _send(connection, guest, _hello(hello))
    request = _receive(connection)
    name = request if isinstance(request, str) else next(iter(request))
    if name in faults.agent_silent:
        connection.recv(1)
        return
    _send(connection, guest, _answer(name, guest, faults))


def _hello(message: Any) -> Any:
    body = message.get("ProtocolHello") if isinstance(message, dict) else None
    if body is None:
        return {"Error": {"message": "expected ProtocolHello"}}
    if not body["min_supported_version"] <= PROTOCOL <= body["host_protocol_version"]:
        return {
            "ProtocolMismatch": {
                "agent_protocol_version": PROTOCOL,
                "min_supported_version": PROTOCOL,
            }
        }
    wanted = body.get("requested_capabilities", [])
    return {
        "ProtocolHelloAck": {
            "agent_protocol_version": PROTOCOL,
            "min_supported_version": PROTOCOL,
            "agent_version": "simulated",
            "capabilities": [c for c in CAPABILITIES if c in wanted],
        }
    }


def _answer(name: str, guest: Guest, faults: Faults) -> Any:
    match name:
        case "SleepPrep":
            time.sleep(faults.agent_drain_ms / 1000)
            detail = None if faults.agent_drain_ok else "simulated: still busy"
            return {"SleepPrepAck": {"success": faults.agent_drain_ok, "detail": detail}}
        case "Wake":
            return {"WakeAck": {"success": True}}
        case "Ping":
            return "Pong"
        case "WorkerStatus":
            return {"WorkerStatus": {"status": "idle", "last_busy_at": None}}
        case "PostRestore":
            guest.write_serial(b"post restore\n")
            return {"PostRestoreAck": {"success": True, "detail": None}}
        case _:
            return {"Error": {"message": f"unknown request {name}"}}


def _send(connection: socket.socket, guest: Guest, message: Any) -> None:
    guest.wait_until_running()
    body = json.dumps(message).encode()
    connection.sendall(len(body).to_bytes(4, "big") + body)


def _receive(connection: socket.socket) -> Any:
    size = int.from_bytes(_exactly(connection, 4), "big")
    if size > FRAME_MAX:
        raise ValueError("frame too long")
    return json.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise OSError("connection closed")
        data += more
    return data
