"""Connections to a guest against sockets that answer badly, late or never."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from worker.host.agents import messages as frames
from worker.host.agents.vsock import (
    DeadlineError,
    DeadlineSocket,
    GarbledError,
    NoConnectionError,
    NotListeningError,
    connect,
)
from worker.host.firecracker import versions

BOUND_S = 10.0
Serve = Callable[[Callable[[socket.socket], object]], Path]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server that does this with its one connection, and then hangs up."""
    threads: list[threading.Thread] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(BOUND_S)

    def start(talk: Callable[[socket.socket], object]) -> Path:
        path = tmp_path / "v.sock"
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(BOUND_S)
                talk(connection)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return path

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def dial(path: Path, within_s: float = BOUND_S) -> DeadlineSocket:
    return connect(path, 5252, pid=os.getpid(), deadline=time.monotonic() + within_s)


def test_the_command_comes_whole_and_what_follows_ok_is_the_agents(serve: Serve) -> None:
    commands: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        commands.append(connection.recv(64))
        connection.sendall(b"OK 1073741824\nhello")

    with dial(serve(talk)) as wire:
        assert wire.receive(5) == b"hello"
    assert commands == [b"CONNECT 5252\n"]


def test_a_closed_connection_means_that_no_process_listens(serve: Serve) -> None:
    with pytest.raises(NotListeningError):
        dial(serve(lambda connection: connection.recv(64)))


@pytest.mark.parametrize("answer", [b"OK \n", b"OK x\n", b"NO 1\n", b"OK 1", b"OK " + b"1" * 99])
def test_an_answer_that_is_not_a_vmms_is_refused(answer: bytes, serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(64)
        connection.sendall(answer)

    with pytest.raises(GarbledError):
        dial(serve(talk))


def test_one_byte_at_a_time_does_not_stretch_the_deadline(serve: Serve) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(64)
        for byte in b"OK 10737418240000000000000\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    with pytest.raises(NoConnectionError, match="in time"):
        dial(serve(talk), within_s=0.35)


def test_a_vmm_that_does_not_look_at_its_socket_is_left_before_the_deadline(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "v.sock"))
        listener.listen()
        with pytest.raises(NoConnectionError, match="does not pass the connection"):
            dial(tmp_path / "v.sock", within_s=60)


def test_a_full_backlog_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "v.sock"))
        listener.listen(0)
        first.connect(str(tmp_path / "v.sock"))
        with pytest.raises(NoConnectionError, match="no connection"):
            dial(tmp_path / "v.sock", within_s=60)


def test_another_process_than_the_vmm_is_not_talked_to(serve: Serve) -> None:
    path = serve(lambda connection: connection.recv(64))
    with pytest.raises(GarbledError, match="in place of the VMM"):
        connect(path, 5252, pid=1, deadline=time.monotonic() + BOUND_S)


@pytest.mark.parametrize("kind", ["nothing", "file", "symlink"])
def test_only_a_socket_is_connected_to(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    if kind == "file":
        path.touch()
    elif kind == "symlink":
        path.symlink_to("elsewhere")
    with pytest.raises(NoConnectionError):
        dial(path)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.fixture
def pair() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    """A wire and its other end."""
    ours, theirs = socket.socketpair()
    with DeadlineSocket(ours, time.monotonic() + BOUND_S) as wire, theirs:
        yield wire, theirs


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        (b'"Pong"', "Pong"),
        (b'{"WakeAck":{"success":true}}', frames.Reply(wake_ack=frames.Ack(success=True))),
        (
            b'{"SleepPrepAck":{"success":false,"detail":"busy","later":1}}',
            frames.Reply(sleep_prep_ack=frames.Ack(success=False, detail="busy")),
        ),
        (b'{"Error":{"message":"no"}}', frames.Reply(error=frames.Fault(message="no"))),
        (
            b'{"ProtocolHelloAck":{"agent_protocol_version":1,"min_supported_version":1,'
            b'"agent_version":"2","capabilities":["ping"]}}',
            frames.Reply(protocol_hello_ack=frames.HelloAck(capabilities=("ping",))),
        ),
    ],
)
def test_what_an_agent_may_say_is_understood(
    body: bytes, reply: object, pair: tuple[DeadlineSocket, socket.socket]
) -> None:
    wire, theirs = pair
    theirs.sendall(frame(body))
    assert frames.receive(wire) == reply


@pytest.mark.parametrize(
    "sent",
    [
        frame(b""),
        frame(b'"Wake"'),
        frame(b"[]"),
        frame(b"{"),
        frame(b'{"SleepPrepAck":{"success":1}}'),
        frame(b'{"SleepPrepAck":{"success":true,"detail":"\xff"}}'),
        frame(b"[" * 200_000),
        frame(b'{"a":' * 50_000),
        b"\xff\xff\xff\xff",
        b"\x00\x04\x00\x01",
    ],
    ids=["empty", "request", "list", "torn", "type", "utf8", "deep", "deep-unknown", "4GiB", "+1"],
)
def test_what_no_agent_may_say_is_garbled(
    sent: bytes, pair: tuple[DeadlineSocket, socket.socket]
) -> None:
    wire, theirs = pair
    feeder = threading.Thread(target=theirs.sendall, args=(sent,))
    feeder.start()
    with pytest.raises(GarbledError):
        frames.receive(wire)
    feeder.join()


def test_a_frame_of_the_largest_size_is_read(pair: tuple[DeadlineSocket, socket.socket]) -> None:
    wire, theirs = pair
    body = b'"Pong"'.ljust(frames.FRAME_MAX_BYTES)
    feeder = threading.Thread(target=theirs.sendall, args=(frame(body),))
    feeder.start()
    assert frames.receive(wire) == "Pong"
    feeder.join()


def test_silence_ends_at_the_deadline_and_a_hang_up_at_once(
    pair: tuple[DeadlineSocket, socket.socket],
) -> None:
    wire, theirs = pair
    wire.deadline = time.monotonic() + 0.05
    with pytest.raises(DeadlineError):
        frames.receive(wire)
    wire.deadline = time.monotonic() + BOUND_S
    theirs.sendall(b"\x00\x00")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(GarbledError, match="closed the connection"):
        frames.receive(wire)


def test_the_guests_text_is_short_and_printable() -> None:
    text = frames.plain("\x1b[31m busy\n\u202e\u2028" + "x" * 1000)
    assert text is not None
    assert text.startswith("?[31m busy???x")
    assert len(text) == 500
    assert frames.plain(None) is None


@pytest.mark.parametrize(
    ("version", "restore", "resume", "clock"),
    [
        ("1.15.1", True, True, False),
        ("1.16.0", False, False, True),
        ("1.16.1", True, False, True),
        ("1.16.2", True, True, True),
        ("1.17.0-dev", True, True, True),
        ("2.0.0", True, True, True),
        ("", True, True, False),
    ],
)
def test_versions_differ_in_vsock_and_clock(
    version: str, restore: bool, resume: bool, clock: bool
) -> None:
    assert versions.vsock_survives_restore(version) is restore
    assert versions.vsock_survives_bare_resume(version) is resume
    assert versions.has_clock_realtime(version, "x86_64") is clock
    assert not versions.has_clock_realtime(version, "aarch64")
