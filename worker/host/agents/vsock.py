"""Connects from the host to a port of the guest, through the VMM's Unix socket.

The VMM takes `CONNECT <port>` on its socket and answers `OK <host port>` once the guest has
accepted; it closes the connection if no process listens (Firecracker: docs/vsock.md).  The socket
lies in a directory of the VMM's uid, and all data from it is the guest's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import stat
import termios
import time
from pathlib import Path
from typing import Final, Self

from worker.linux import processes

# A VMM whose guest has a vsock driver reads at once; without one it never looks at its socket.
_TAKEN_S: Final = 0.5
_OK_MAX_BYTES: Final = 32


class NoConnectionError(Exception):
    """No connection to the guest could be made."""


class NotListeningError(NoConnectionError):
    """The VMM closed the connection: no process in the guest listens on the port."""


class DeadlineError(Exception):
    """The time is over."""


class GarbledError(Exception):
    """The other side broke the protocol."""


class DeadlineSocket:
    """A socket with one deadline for all calls, in monotonic seconds."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._socket = connection
        self.deadline = deadline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def left_s(self) -> float:
        """The time that is left.

        Raises:
            DeadlineError: the time is over.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineError
        return left

    def send(self, data: bytes) -> None:
        """Sends all of it, in one send(2) if the kernel takes it.

        Raises:
            DeadlineError, GarbledError: the time is over; the other side closed the connection.
        """
        self._socket.settimeout(self.left_s())
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise DeadlineError from error
        except OSError as error:
            raise GarbledError(f"it closed the connection: {error.strerror}") from error

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            DeadlineError, GarbledError: the time is over; the other side closed the connection.
        """
        data = bytearray()
        while len(data) < size:
            data += self._some(size - len(data))
        return bytes(data)

    def _some(self, most: int) -> bytes:
        self._socket.settimeout(self.left_s())
        try:
            more = self._socket.recv(most)
        except TimeoutError as error:
            raise DeadlineError from error
        except OSError as error:
            raise GarbledError(f"it closed the connection: {error.strerror}") from error
        if not more:
            raise GarbledError("it closed the connection")
        return more

    def await_read(self) -> None:
        """Waits until the other side has read what was sent, or has answered.

        Raises:
            NoConnectionError: it did neither within half a second.
            DeadlineError: the time is over.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        answered = poll.poll(min(_TAKEN_S, self.left_s()) * 1000)
        # SIOCOUTQ on a Unix socket: what the other side has not read yet (net/unix/af_unix.c).
        unread = fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4))
        if not answered and any(unread):
            raise NoConnectionError("the VMM does not pass the connection to its guest")


def connect(path: Path, port: int, *, pid: int, deadline: float) -> DeadlineSocket:
    """A connection to the guest's port, which the caller must close; process `pid` is its VMM.

    Raises:
        NoConnectionError, NotListeningError: no connection within the deadline.
        GarbledError: another process listens there, or the answer is not a VMM's.
    """
    wire = DeadlineSocket(_open_socket(path, pid), deadline)
    try:
        # In one send: the VMM reads once, and drops a command that is not complete by then.
        wire.send(b"CONNECT %d\n" % port)
        wire.await_read()
        _await_ok(wire)
    except DeadlineError as error:
        wire.close()
        raise NoConnectionError("nothing in the guest took the connection in time") from error
    except BaseException:
        wire.close()
        raise
    return wire


def _await_ok(wire: DeadlineSocket) -> None:
    line = b""
    # Byte by byte: the bytes after the line are the agent's.
    while not line.endswith(b"\n") and len(line) < _OK_MAX_BYTES:
        try:
            line += wire.receive(1)
        except GarbledError as error:
            if line:
                raise
            raise NotListeningError("no process in the guest listens") from error
    if not (line.startswith(b"OK ") and line[3:-1].isdigit() and line.endswith(b"\n")):
        raise GarbledError("the answer on the vsock socket is not a VMM's")


def _open_socket(path: Path, pid: int) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.setblocking(False)  # a full backlog is an error, not a wait
        _connect(connection, path)
        _check_peer(connection, pid)
    except OSError as error:
        connection.close()
        raise NoConnectionError(
            f"no connection to the VMM's vsock socket: {error.strerror}"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: Path) -> None:
    entry = _entry(path)
    try:
        if not stat.S_ISSOCK(os.fstat(entry).st_mode):
            raise FileNotFoundError(errno.ENOENT, "it is not a socket")
        # By descriptor: the path may have more than the 107 bytes that unix(7) allows.
        connection.connect(f"/proc/self/fd/{entry}")
    finally:
        os.close(entry)


def _entry(path: Path) -> int:
    """A descriptor of the socket's directory entry; a symlink by the VMM is not followed."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(path.parent, flags | os.O_DIRECTORY)
    try:
        return os.open(path.name, flags, dir_fd=directory)
    finally:
        os.close(directory)


def _check_peer(connection: socket.socket, pid: int) -> None:
    peer = processes.listener_of(connection)
    if peer != pid:
        raise GarbledError(f"process {peer} answered in place of the VMM, process {pid}")
