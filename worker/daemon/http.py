"""`/metrics`, `/healthz` and `/readyz`, on a new socket or an inherited one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.errors import StartupError

Answer = Callable[[str], tuple[int, str, bytes]]
HealthCheck = Callable[[], tuple[bool, str]]
REQUEST_TIMEOUT_S: Final = 10


class LiveGauges(Collector):
    """Gauges that are read at each scrape."""

    def __init__(self, read: Callable[[], Iterable[GaugeMetricFamily]]) -> None:
        self._read = read

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges' values now."""
        return self._read()


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """A gauge without labels."""
    return GaugeMetricFamily(name, text, value=value)


def listening_socket(listen: str) -> socket.socket:
    """The socket that `[metrics] listen` names.

    Raises:
        StartupError: the address is taken or wrong.
    """
    address, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        if listen.startswith("fd:"):
            return socket.socket(fileno=int(port))
        return socket.create_server((address.strip("[]"), int(port)), family=family)
    except (OSError, OverflowError) as error:
        raise StartupError(
            f"[metrics] listen = {listen!r}: {error}; free the port or choose another"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listening: socket.socket, answer: Answer) -> None:
        super().__init__(("", 0), _handler(answer), bind_and_activate=False)
        self.socket.close()
        self.socket = listening


def _handler(answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            status, kind, body = answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def serve(
    listening: socket.socket,
    registry: CollectorRegistry,
    *,
    healthy: HealthCheck,
    ready: HealthCheck,
) -> ThreadingHTTPServer:
    """Serves on its own thread until `shutdown()` and `server_close()`."""
    text = "text/plain; charset=utf-8"

    def answer(path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)
        verdicts = {"/healthz": healthy, "/readyz": ready}
        if path not in verdicts:
            return HTTPStatus.NOT_FOUND, text, b"/metrics /healthz /readyz\n"
        good, why = verdicts[path]()
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        return status, text, f"{why}\n".encode()

    server = _Server(listening, answer)
    threading.Thread(target=server.serve_forever, args=(1.0,), name="metrics", daemon=True).start()
    return server
