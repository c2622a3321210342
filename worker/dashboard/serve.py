"""The HTTP server.

Werkzeug's threaded server, which Flask already depends on.  It is made for development, but enough
here: an operator's page that polls every 2.5 s, on loopback or behind a proxy.  Idle connections
are closed and threads are daemons; a production server would be one more dependency.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from worker.errors import StartupError

IDLE_S: Final = 30


class QuietHandler(WSGIRequestHandler):
    """Logs no request lines and hides its version."""

    timeout = IDLE_S

    def version_string(self) -> str:
        """The header `Server`."""
        return "hostd"

    def log_request(self, *_: Any) -> None:
        """Logs nothing: a page polls, and its lines would hide the others."""


def listening_socket(listen: str) -> socket.socket:
    """The socket of `listen`: `address:port`, or `fd:N` for one that already listens.

    Raises:
        StartupError: it is invalid, or the address is in use.
    """
    try:
        if listen.startswith("fd:"):
            return _inherited(int(listen.removeprefix("fd:")))
        address, _, port = listen.rpartition(":")
        address = address.strip("[]")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, int(port)), family=family)
    except (OSError, OverflowError, ValueError) as error:
        raise StartupError(
            f"--listen {listen}: {error}; free the port or choose another"
        ) from error


def _inherited(number: int) -> socket.socket:
    listening = socket.socket(fileno=number)
    if not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listening.detach()  # its opener closes it
        raise ValueError("the socket does not listen")
    return listening


def shown_address(listening: socket.socket) -> str:
    """The URL to open in a browser."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}/"


def serve(app: Flask, listening: socket.socket) -> None:
    """Serves until an exception."""
    host, port = _werkzeug_address(listening)
    server = make_server(
        host, port, app, threaded=True, request_handler=QuietHandler, fd=listening.fileno()
    )
    server.serve_forever()


def _werkzeug_address(listening: socket.socket) -> tuple[str, int]:
    """The address from which Werkzeug derives the family of an inherited socket."""
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return f"unix://{name}", 0
    return name[0], name[1]
