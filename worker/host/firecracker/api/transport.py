"""httpx's requests to one VMM: one kept connection over a Unix socket, on which several may be sent
at once.

httpx's own transport keeps a pool of connections with its locks and queues, and builds what TLS and
proxies need: more than half of a call's time, for a server that gets one request at a time.  HTTP
itself is h11's, as there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import h11
import httpx

_CHUNK_BYTES: Final = 1 << 16


class OneConnection:
    """Sends requests to the server that listens at `path`.

    `check` gets each new socket before anything is sent on it, and raises if the server is not the
    right one.
    """

    def __init__(self, path: str, check: Callable[[socket.socket], None]) -> None:
        self._path = path
        self._check = check
        self._socket: socket.socket | None = None
        self._received = b""

    def send(self, requests: Sequence[httpx.Request], timeout_s: float) -> Iterator[httpx.Response]:
        """The answers in order, the requests having been sent in one piece (RFC 9112, 9.3.2).

        The server works through all of them, even if it refuses one.  `timeout_s` bounds the wait
        for each piece of an answer, in seconds.

        Raises:
            httpx.TimeoutException: the next answer, or the rest of it, did not come in time.
            httpx.TransportError: the connection broke, or the answer is not valid HTTP.
        """
        unread = len(requests)
        try:
            connection = self._connected(timeout_s)
            states = [h11.Connection(h11.CLIENT) for _ in requests]
            self._send(connection, b"".join(map(_encode, states, requests)))
            connection.settimeout(timeout_s)
            for state in states:
                answer = self._answer(connection, state)
                unread -= 1
                yield answer
        except TimeoutError as error:
            raise httpx.TimeoutException(str(error)) from error
        except (OSError, h11.ProtocolError) as error:
            raise httpx.TransportError(str(error)) from error
        finally:
            if unread:  # otherwise an unread answer would be taken for that of the next request
                self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._received = None, b""

    def _connected(self, timeout_s: float) -> socket.socket:
        if self._socket is not None and not self._received and not self._readable():
            self._socket.settimeout(timeout_s)
            return self._socket
        self.close()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(self._path)
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        self._socket = connection
        return connection

    def _send(self, connection: socket.socket, raw: bytes) -> None:
        try:
            connection.sendall(raw)
        except ConnectionError:  # a server that closes in the middle may have answered before
            if not self._readable():
                raise

    def _readable(self) -> bool:
        """Whether an idle connection has something to read, as only a closed one has."""
        assert self._socket is not None  # noqa: S101  called for a connection only
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _answer(self, connection: socket.socket, state: h11.Connection) -> httpx.Response:
        state.receive_data(self._received or connection.recv(_CHUNK_BYTES))
        head, content = None, b""
        while not isinstance(event := state.next_event(), h11.EndOfMessage):
            match event:
                case h11.Response():
                    head = event
                case h11.Data():
                    content += event.data
                case h11.InformationalResponse():
                    continue
                case h11.NEED_DATA:
                    state.receive_data(connection.recv(_CHUNK_BYTES))
                case _:
                    raise ConnectionError("the VMM closed the connection")
        self._received = state.trailing_data[0]
        if state.their_state is not h11.DONE:  # this was its last answer
            self.close()
        assert head is not None  # noqa: S101  h11 gives a head before any end
        return httpx.Response(head.status_code, headers=list(head.headers), content=content)


def _encode(state: h11.Connection, request: httpx.Request) -> bytes:
    head = h11.Request(
        method=request.method, target=request.url.raw_path, headers=request.headers.raw
    )
    events = head, h11.Data(data=request.read()), h11.EndOfMessage()
    return b"".join(state.send(event) or b"" for event in events)
