"""The guest's side of a vsock connection: a guest agent, and a port that returns the counter.

Frames: 4 bytes of length, big-endian, then JSON of at most 262,144 bytes.  A connection carries a
hello, then one operation.

The key `agent_faults` of `simulate.json` is a list of: `old` (port 52, and no hello), `mismatch`
(of protocol versions), `deaf` (accepts, then never answers), `error` (refuses every operation),
`mute` (offers no capability in its hello), `no_ok` (sends `KO` in place of the VMM's OK), and of
faults of the answer: `garbage` (not JSON), `oversized` (a frame beyond the limit), `nested` (JSON
too deep to read), `foreign` (to another request), `torn` (cut off), `dribble` (byte by byte).
`note` is not a fault: requests are appended to the file `heard` in the jail's root, a line each.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from worker.simulator.faults import Faults
from worker.simulator.guest import Guest

AGENT_PORT, OLD_PORT, COUNTER_PORT = 5252, 52, 7000
FRAME_MAX = 262_144
PROTOCOL = 1
CAPABILITIES = ["ping", "sleep_prep", "wake", "worker_status", "post_restore"]


def serve(
    connection: socket.socket, port: int, host_port: int, guest: Guest, faults: Faults
) -> None:
    """Serves the connection to its end; closes it at once if nothing listens on that port."""
    old = "old" in faults.agent_faults
    if not faults.agent or port not in (OLD_PORT if old else AGENT_PORT, COUNTER_PORT):
        return
    guest.wait_until_running()
    if "no_ok" in faults.agent_faults:
        connection.sendall(b"KO" * 64)
        return
    connection.sendall(b"OK %d\n" % host_port)
    if port == COUNTER_PORT:
        connection.sendall(b"%d\n" % guest.counter)
        return
    if "deaf" in faults.agent_faults:
        _await_hang_up(connection)
        return
    if not old:
        hello = _hello(_receive(connection), faults)
        _send(connection, guest, _framed(hello))
        if "ProtocolHelloAck" not in hello:
            return
    request = _receive(connection)
    name = request if isinstance(request, str) else next(iter(request))
    if "note" in faults.agent_faults:
        with open("/heard", "a") as file:
            print(json.dumps(request), file=file)
    if name in faults.agent_silent:
        _await_hang_up(connection)
        return
    frame = _damaged(_framed(_answer(name, guest, faults)), faults)
    pieces = [frame[i : i + 1] for i in range(len(frame))]
    for piece in pieces if "dribble" in faults.agent_faults else [frame]:
        _send(connection, guest, piece)


def _damaged(frame: bytes, faults: Faults) -> bytes:
    """The frame, damaged as the faults say."""
    for fault in faults.agent_faults:
        match fault:
            case "garbage":
                return len(b"\xffno JSON").to_bytes(4, "big") + b"\xffno JSON"
            case "oversized":
                return (FRAME_MAX + 1).to_bytes(4, "big") + bytes(FRAME_MAX + 1)
            case "nested":
                return FRAME_MAX.to_bytes(4, "big") + b"[" * FRAME_MAX
            case "foreign":
                return _framed({"Unheard": {"of": 1}})
            case "torn":
                return frame[:-3]
            case _:
                continue
    return frame


def _await_hang_up(connection: socket.socket) -> None:
    while connection.recv(64):
        pass


def _hello(message: Any, faults: Faults) -> dict[str, Any]:
    body = message.get("ProtocolHello") if isinstance(message, dict) else None
    if body is None:
        return {"Error": {"message": "expected ProtocolHello"}}
    understood = body["min_supported_version"] <= PROTOCOL <= body["host_protocol_version"]
    if not understood or "mismatch" in faults.agent_faults:
        return {
            "ProtocolMismatch": {
                "agent_protocol_version": PROTOCOL,
                "min_supported_version": PROTOCOL,
            }
        }
    wanted = body.get("requested_capabilities", [])
    offered = [] if "mute" in faults.agent_faults else CAPABILITIES
    return {
        "ProtocolHelloAck": {
            "agent_protocol_version": PROTOCOL,
            "min_supported_version": PROTOCOL,
            "agent_version": "simulated",
            "capabilities": [c for c in offered if c in wanted],
        }
    }


def _answer(name: str, guest: Guest, faults: Faults) -> Any:
    if "error" in faults.agent_faults:
        return {"Error": {"message": "simulated: \x1b[31mno\n" + 1000 * "o"}}
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


def _framed(message: Any) -> bytes:
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "big") + body


def _send(connection: socket.socket, guest: Guest, data: bytes) -> None:
    guest.wait_until_running()
    connection.sendall(data)


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
