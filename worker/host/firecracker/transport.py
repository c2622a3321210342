"""httpx's transport for one VMM: one connection over a Unix socket, kept.

httpx's own keeps a pool of connections with its locks and queues, and builds what TLS and proxies
need: more than half of a call's time, for a server that is asked one thing at a time.  HTTP itself
is httpcore's, as there.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import httpcore
import httpx

_ORIGIN: Final = httpcore.Origin(b"http", b"localhost", 80)


class OneConnection(httpx.BaseTransport):
    """Requests go to whoever listens at `path`, if `check` returns; it sees the fresh socket.

    An answer is read to its end before it is given back.
    """

    def __init__(self, path: str, check: Callable[[socket.socket], None]) -> None:
        self._path = path
        self._check = check
        self._connection: httpcore.HTTP11Connection | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer.

        Raises:
            httpx.TimeoutException, httpx.TransportError: there is none, or none that is whole.
        """
        try:
            return self._answer(request)
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise httpx.TimeoutException(str(error), request=request) from error
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise httpx.TransportError(str(error), request=request) from error

    def close(self) -> None:
        """The connection is closed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if (connection := self._standing()) is None:
            self.close()
            connection = self._connected(request.extensions["timeout"]["connect"])
            self._connection = connection
        url = httpcore.URL(
            scheme=_ORIGIN.scheme, host=_ORIGIN.host, port=None, target=request.url.raw_path
        )
        answer = connection.handle_request(
            httpcore.Request(
                request.method,
                url,
                headers=request.headers.raw,
                content=request.read(),
                extensions=request.extensions,
            )
        )
        try:
            content = answer.read()
        finally:
            answer.close()
        return httpx.Response(answer.status, headers=answer.headers, content=content)

    def _standing(self) -> httpcore.HTTP11Connection | None:
        connection = self._connection
        if connection is None or connection.is_closed() or connection.has_expired():
            return None
        return connection

    def _connected(self, timeout_s: float) -> httpcore.HTTP11Connection:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(self._path)
            self._check(connection)
        except BaseException:
            connection.close()
            raise
        return httpcore.HTTP11Connection(_ORIGIN, _Stream(connection))


class _Stream(httpcore.NetworkStream):
    """A connected socket as httpcore sees it; a request's head and body go out in one piece."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._unsent = b""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        try:
            self._send()
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(error) from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._unsent += buffer

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, b""
        # Who hangs up in the middle of a request may have answered it before.
        with suppress(ConnectionError):
            self._socket.sendall(unsent)

    def close(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        return self._readable() if info == "is_readable" else None

    def _readable(self) -> bool:
        # An idle connection has something to read only once the other end has closed it.
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def start_tls(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        raise NotImplementedError("there is no TLS on a Unix socket")
