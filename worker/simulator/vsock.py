"""The host's side of the guest's vsock device: a Unix socket that takes `CONNECT <port>`."""

from __future__ import annotations

import os
import select
import socket
import threading

from worker.simulator.agent import serve
from worker.simulator.errors import ApiFault, FatalFault, os_words
from worker.simulator.faults import Faults
from worker.simulator.guest import Guest

FIRST_HOST_PORT = 1 << 30
COMMAND_MIN, COMMAND_MAX = 10, 32
SUN_LEN = 108


class Vsock:
    """One listening socket, bound at once; it accepts only after `attach`, and not while paused."""

    def __init__(self, path: str, *, prefix: str, fatal: bool = False) -> None:
        self.path, self.dead = path, False  # dead: accepts, then passes no data
        self.open: set[socket.socket] = set()
        self.lock = threading.Lock()
        self.next_port = FIRST_HOST_PORT
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fault = FatalFault if fatal else ApiFault
        what = f"{prefix}Error binding to the host-side Unix socket: "
        if len(os.fsencode(path)) >= SUN_LEN:
            raise fault(f"{what}path must be shorter than SUN_LEN")
        try:
            self.listener.bind(path)
        except OSError as error:
            raise fault(f"{what}{os_words(error)}") from error
        self.listener.listen(128)

    def close(self) -> None:
        """Stops listening and removes the socket's file: a PUT replaces the device."""
        self.listener.close()
        os.unlink(self.path)

    def attach(self, guest: Guest, faults: Faults) -> None:
        """Forwards connections to the guest from now on."""
        threading.Thread(target=self._accept, args=(guest, faults), daemon=True).start()

    def reset(self) -> None:
        """Closes every connection, as a snapshot does."""
        with self.lock:
            for connection in self.open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _accept(self, guest: Guest, faults: Faults) -> None:
        while True:
            select.select([self.listener], [], [])
            guest.wait_until_running()
            connection, _ = self.listener.accept()
            threading.Thread(
                target=self._connect, args=(connection, guest, faults), daemon=True
            ).start()

    def _connect(self, connection: socket.socket, guest: Guest, faults: Faults) -> None:
        with connection:
            with self.lock:
                self.open.add(connection)
                self.next_port += 1
                host_port = self.next_port
            try:
                port = _requested_port(connection)
                if port is not None and self.dead:
                    while connection.recv(64):
                        continue
                elif port is not None:
                    serve(connection, port, host_port, guest, faults)
            except (OSError, ValueError):
                return  # the host hung up, or sent an invalid message
            finally:
                with self.lock:
                    self.open.discard(connection)


def _requested_port(connection: socket.socket) -> int | None:
    select.select([connection], [], [])
    # Non-blocking: the rest of a command that has not arrived by the first read is not awaited.
    connection.setblocking(False)
    try:
        command = connection.recv(COMMAND_MIN)
        while len(command) >= COMMAND_MIN and command[-1:] != b"\n" and len(command) < COMMAND_MAX:
            more = connection.recv(1)
            if not more:
                return None
            command += more
    except BlockingIOError:
        return None
    connection.setblocking(True)
    words = command.split()
    if len(command) < COMMAND_MIN or len(words) < 2 or words[0].lower() != b"connect":
        return None
    return int(words[1]) if words[1].isdigit() and int(words[1]) < 1 << 32 else None
