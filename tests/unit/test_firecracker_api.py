"""The API client against servers that answer badly, late or never."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from worker.errors import Broken, HostdError, Transient
from worker.host.firecracker.api.client import Api, listening
from worker.ports import VmmState

Serve = Callable[[bytes], Path]


def answer(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server that gives the same bytes to whoever asks, and then hangs up."""
    stop = threading.Event()
    threads: list[threading.Thread] = []
    listeners: list[socket.socket] = []

    def run(listener: socket.socket, reply: bytes) -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(1)
                if connection.recv(65536):
                    connection.sendall(reply)
                    if not reply:
                        stop.wait(5)

    def start(reply: bytes) -> Path:
        (tmp_path / "run").mkdir()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "run/firecracker.socket"))
        listener.settimeout(0.05)
        listener.listen()
        listeners.append(listener)
        thread = threading.Thread(target=run, args=(listener, reply))
        thread.start()
        threads.append(thread)
        return tmp_path

    yield start
    stop.set()
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def put(root: Path) -> HostdError:
    with Api(root, pid=os.getpid(), timeout_s=0.2) as api, pytest.raises(HostdError) as failed:
        api.put("/vsock", {})
    return failed.value


def test_a_fault_message_and_its_route_are_reported(serve: Serve) -> None:
    error = put(serve(answer("400 Bad Request", b'{"fault_message": "no such thing"}')))
    assert error.code == "broken/vmm_refused"
    assert error.message == "Firecracker refused PUT /vsock: no such thing"
    assert error.facts == {"route": "PUT /vsock", "status": 400}


def test_a_fault_that_is_not_json_is_reported_unchanged(serve: Serve) -> None:
    error = put(serve(answer("400 Bad Request", b'{"fault_message": "line\nbreak"}')))
    assert error.code == "broken/vmm_refused"
    assert "line\nbreak" in error.message


def test_one_connection_too_many_is_worth_another_try(serve: Serve) -> None:
    error = put(serve(answer("503 Service Unavailable", b'{"error": "Too many connections"}')))
    assert error.code == "transient/vmm_timeout"
    assert "Too many connections" in error.message


def test_an_unexpected_success_status_is_an_error(serve: Serve) -> None:
    assert put(serve(answer("202 Accepted", b""))).code == "broken/vmm_refused"


def test_no_answer_is_a_timeout(serve: Serve) -> None:
    assert put(serve(b"")).code == "transient/vmm_timeout"


def test_an_answer_that_is_not_http_is_a_broken_connection(serve: Serve) -> None:
    assert put(serve(b"\x00\x01\x02\r\n\r\n")).code == "transient/vmm_timeout"


def test_a_state_that_firecracker_does_not_have_is_refused(serve: Serve) -> None:
    root = serve(answer("200 OK", b'{"id": "i-1a2b3c4d", "state": "Dreaming"}'))
    with Api(root, pid=os.getpid(), timeout_s=1) as api, pytest.raises(Broken) as refused:
        api.state()
    assert "Dreaming" in refused.value.message


def test_a_state_is_translated(serve: Serve) -> None:
    root = serve(answer("200 OK", b'{"id": "i-1a2b3c4d", "state": "Paused"}'))
    with Api(root, pid=os.getpid(), timeout_s=1) as api:
        assert api.state() is VmmState.PAUSED


def test_a_socket_without_listener_leaves_no_descriptor_open(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "run/firecracker.socket"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert not listening(tmp_path)
    assert put(tmp_path).code == "transient/vmm_timeout"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_missing_socket_is_a_timeout(tmp_path: Path) -> None:
    with pytest.raises(Transient):
        Api(tmp_path, pid=1, timeout_s=1)


def test_a_symlink_in_place_of_the_sockets_directory_is_not_followed(
    tmp_path: Path, serve: Serve
) -> None:
    serve(answer("204 No Content", b""))
    jail = tmp_path / "jail"
    jail.mkdir()
    (jail / "run").symlink_to(tmp_path / "run")
    assert not listening(jail)
    with pytest.raises(Transient):
        Api(jail, pid=1, timeout_s=1)


def put_both(root: Path) -> HostdError:
    with Api(root, pid=os.getpid(), timeout_s=0.2) as api, pytest.raises(HostdError) as failed:
        api.put_all([("/drives/data", {}), ("/vsock", {})])
    return failed.value


def test_of_calls_sent_at_once_the_first_refusal_is_reported(serve: Serve) -> None:
    fault = answer("400 Bad Request", b'{"fault_message": "no such thing"}')
    error = put_both(serve(answer("204 No Content", b"") + fault))
    assert error.message == "Firecracker refused PUT /vsock: no such thing"


def test_a_refusal_is_reported_even_if_later_calls_have_no_answer(serve: Serve) -> None:
    error = put_both(serve(answer("400 Bad Request", b'{"fault_message": "no such thing"}')))
    assert error.message == "Firecracker refused PUT /drives/data: no such thing"


def test_of_calls_sent_at_once_the_one_without_an_answer_is_named(serve: Serve) -> None:
    error = put_both(serve(answer("204 No Content", b"")))
    assert error.code == "transient/vmm_timeout"
    assert error.facts["route"] == "PUT /vsock"


def test_calls_share_a_connection_and_those_at_once_a_write(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    pieces: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()  # once
        with connection:
            while piece := connection.recv(65536):
                pieces.append(piece)
                connection.sendall(answer("204 No Content", b"") * piece.count(b" HTTP/1.1\r\n"))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run/firecracker.socket"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with Api(tmp_path, pid=os.getpid(), timeout_s=5) as api:
            api.put("/machine-config", {})
            api.put_all([("/drives/data", {"drive_id": "data"}), ("/vsock", {})])
            api.patch("/vm", {"state": "Paused"})
        thread.join()
    assert [piece.count(b"PUT ") for piece in pieces] == [1, 2, 0]
    assert pieces[1].endswith(b"\r\n\r\n{}")
