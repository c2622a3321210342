"""HTTP/1.1 over the API socket, as Firecracker's own small server speaks it."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_CONNECTIONS = 10
LIMIT_BYTES = 51_200  # of a body: the default of --http-api-max-payload-size
HEADER = "Server: Firecracker API\r\n"
FULL = (
    f"HTTP/1.1 503\r\n{HEADER}Connection: close\r\nContent-Length: 40\r\n\r\n"
    '{ "error": "Too many open connections" }'
)
METHODS = ("GET", "PUT", "PATCH", "DELETE")


class Request(NamedTuple):
    """One request; an absent body is empty."""

    method: str
    path: str
    body: bytes


class BadRequest(Exception):
    """Not HTTP that the server accepts; the text says why."""


class Connection:
    """One client, and the bytes of it that no request has consumed yet."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.buffer = b""
        self.skip = 0

    def receive(self) -> bool:
        """Reads what has arrived into the buffer; False if the client hung up."""
        try:
            data = self.client.recv(1 << 16)
        except OSError:
            return False
        self.buffer += data[self.skip :]
        self.skip = max(0, self.skip - len(data))
        return bool(data)

    def next_request(self) -> Request | None:
        """The next complete request; None if more bytes must arrive first.

        Raises:
            BadRequest: it is invalid; the buffer is dropped.
        """
        head, end, rest = self.buffer.partition(b"\r\n\r\n")
        if not end:
            return None
        try:
            method, path = _request_line(head)
            size, expects = _headers(head)
        except BadRequest:
            self.buffer = b""
            raise
        if size > LIMIT_BYTES:
            self.buffer, self.skip = b"", size - len(rest)
            raise BadRequest(
                f"Request payload with size {size} is larger than the limit of "
                f"{LIMIT_BYTES} allowed by server."
            )
        if len(rest) < size:
            if expects:
                self.buffer = self.buffer.replace(b"100-continue", b"")
                self.send(100)
            return None
        self.buffer = rest[size:]
        return Request(method, path, rest[:size])

    def send(self, status: int, body: str | None = None) -> None:
        """Sends the reply; a client that hung up is noticed at the next read."""
        extra = ""
        if body is not None:
            size = len(body.encode())
            extra = f"Content-Type: application/json\r\nContent-Length: {size}\r\n"
        head = f"HTTP/1.1 {status} \r\n{HEADER}Connection: keep-alive\r\n{extra}\r\n"
        try:
            self.client.sendall((head + (body or "")).encode())
        except OSError:
            return


def _request_line(head: bytes) -> tuple[str, str]:
    words = head.split(b"\r\n")[0].decode("latin-1").split(" ")
    if len(words) != 3:
        raise BadRequest("Invalid request.")
    if words[0] not in METHODS:
        raise BadRequest("Invalid HTTP Method: Unsupported HTTP method.")
    if words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest("Invalid HTTP Version: Unsupported HTTP version.")
    path = words[1]
    if path.startswith("http://"):
        path = "/" + path[len("http://") :].partition("/")[2]
    return words[0], path


def _headers(head: bytes) -> tuple[int, bool]:
    size, expects = 0, False
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            raise BadRequest(
                f"Invalid header. Reason: Header is incorrectly formatted. Key: {line}"
            )
        match name.lower(), value.strip():
            case "content-length", text if not text.isdigit():
                raise BadRequest(
                    f"Invalid header. Reason: Invalid value. Key:Content-Length; Value: {text}"
                )
            case "content-length", text:
                size = int(text)
            case "expect", "100-continue":
                expects = True
            case _:
                continue
    return size, expects


class Server:
    """Serves the bound socket, one request after another, as the real one does."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.connections: dict[int, Connection] = {}
        self.poll = select.poll()
        self.poll.register(listener, select.POLLIN)

    def serve(self, handle: Callable[[Request, Connection], int | None]) -> int:
        """Serves until `handle` returns an exit code; that code."""
        while True:
            for descriptor, _ in self.poll.poll():
                if descriptor == self.listener.fileno():
                    self._accept()
                    continue
                code = self._read(descriptor, handle)
                if code is not None:
                    return code

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        if len(self.connections) == MAX_CONNECTIONS:
            with client:
                client.sendall(FULL.encode())
            return
        self.connections[client.fileno()] = Connection(client)
        self.poll.register(client, select.POLLIN)

    def _read(
        self, descriptor: int, handle: Callable[[Request, Connection], int | None]
    ) -> int | None:
        connection = self.connections[descriptor]
        if not connection.receive():
            self.poll.unregister(descriptor)
            self.connections.pop(descriptor).client.close()
            return None
        try:
            while request := connection.next_request():
                code = handle(request, connection)
                if code is not None:
                    return code
        except BadRequest as fault:
            # The raw newline, invalid in JSON, is the real server's.
            connection.send(
                400, f'{{ "error": "{fault}\nAll previous unanswered requests will be dropped." }}'
            )
        return None


def as_json(value: Any) -> str:
    """JSON without blanks, as the API replies."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
