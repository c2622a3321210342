"""Firecracker's API over its Unix socket: each status is checked, each call has a timeout.

The statuses are those of Firecracker's `api_server`: 200, 204, 400 with `{"fault_message"}`, 413,
and 503 with `{"error"}` for an eleventh connection.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self

import httpx

from worker.errors import Broken, Transient
from worker.host.firecracker.api.transport import OneConnection
from worker.linux import processes
from worker.ports import VmmState

SOCKET_NAME: Final = "firecracker.socket"
_MAX_QUOTED: Final = 2048
_JUST_NOW_S: Final = 0.02  # longer than between two steps, too short for a change from outside
_STATES: Final = {
    "Not started": VmmState.IDLE,
    "Running": VmmState.RUNNING,
    "Paused": VmmState.PAUSED,
}


class Api:
    """Calls one VMM, over one kept connection; a context manager.

    `jail_root` is the jail's root directory.  It belongs to the VMM's uid, so no symlink in it is
    followed, and an answer counts only if process `pid` listens on the socket.

    Raises:
        Transient: `vmm_timeout`, the socket does not exist.
    """

    def __init__(self, jail_root: Path, *, pid: int, timeout_s: float) -> None:
        self._pid = pid
        self._timeout_s = timeout_s
        self._seen: tuple[float, VmmState] | None = None  # when, on the monotonic clock
        self._directory = _open_run(jail_root)
        try:
            self._transport = OneConnection(
                f"/proc/self/fd/{self._directory}/{SOCKET_NAME}", self._check_peer
            )
        except BaseException:
            os.close(self._directory)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._transport.close()
        os.close(self._directory)

    def instance(self) -> Mapping[str, Any]:
        """`GET /`: `{"id", "state", "vmm_version", "app_name"}`.

        Raises:
            Transient: `vmm_timeout`.
            Broken: `vmm_refused`.
        """
        at_s = time.monotonic()
        answer = self._call("GET", "/", None, self._timeout_s)
        if not isinstance(answer, dict) or answer.get("state") not in _STATES:
            raise Broken("vmm_refused", f"the VMM describes itself as {answer!r}", route="GET /")
        self._seen = at_s, _STATES[answer["state"]]
        return answer

    def state(self, *, fresh: bool = True) -> VmmState:
        """The VMM's state, as it reports it.

        Unless `fresh`, an answer of the last 20 ms serves if no other call was made since: a VMM
        changes its state only when asked to, and its pidfd says whether it lives.  So the look
        after one step serves the look before the next, which saves a round trip each.

        Raises:
            Transient: `vmm_timeout`.
            Broken: `vmm_refused`.
        """
        if not fresh and self._seen is not None and time.monotonic() - self._seen[0] < _JUST_NOW_S:
            return self._seen[1]
        return _STATES[self.instance()["state"]]

    def assume_state(self, state: VmmState) -> None:
        """Remembers `state` as the VMM's answer, since the call that it just accepted leads there.

        It accepts a boot or a resume only once each vCPU has reported that it runs (`resume_vcpus`
        in src/vmm/src/vstate/vm.rs).
        """
        self._seen = time.monotonic(), state

    def put(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Sends `PUT path`, which the VMM must accept.

        Raises:
            Transient: `vmm_timeout`; whether it took effect is unknown.
            Broken: `vmm_refused`; the fault is in the message.
        """
        self._call("PUT", path, body, timeout_s or self._timeout_s)

    def patch(self, path: str, body: Mapping[str, Any], *, timeout_s: float | None = None) -> None:
        """Sends `PATCH path`.  Raises as `put`."""
        self._call("PATCH", path, body, timeout_s or self._timeout_s)

    def put_all(self, bodies: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Sends a `PUT` of each path, all at once, in one round trip.

        Raises:
            As `put`, for the first that was not accepted; those after it were carried out, too.
        """
        self._calls([("PUT", path, body) for path, body in bodies], self._timeout_s)

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float
    ) -> Any:
        (answer,) = self._calls([(method, path, body)], timeout_s)
        return answer

    def _calls(
        self, calls: Sequence[tuple[str, str, Mapping[str, Any] | None]], timeout_s: float
    ) -> list[Any]:
        self._seen = None
        requests = [httpx.Request(method, _url(path), json=body) for method, path, body in calls]
        answers = self._transport.send(requests, timeout_s)
        return [
            _checked(route, _received(route, answers, timeout_s))
            for route in (f"{method} {path}" for method, path, _ in calls)
        ]

    def _check_peer(self, connection: socket.socket) -> None:
        peer = processes.listener_of(connection)
        if peer != self._pid:
            raise Broken(
                "vmm_identity",
                f"process {peer} listens in place of the VMM, process {self._pid}",
                hint="stop the instance; its VMM may have been subverted",
            )


@lru_cache(maxsize=64)
def _url(path: str) -> httpx.URL:
    """Parsing a URL takes longer than the rest of making a request."""
    return httpx.URL(f"http://localhost{path}")


def listening(jail_root: Path) -> bool:
    """Whether something accepts connections on the jail's API socket."""
    try:
        directory = _open_run(jail_root)
    except Transient:
        return False
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(f"/proc/self/fd/{directory}/{SOCKET_NAME}") == 0
    finally:
        os.close(directory)


def _received(route: str, answers: Iterator[httpx.Response], timeout_s: float) -> httpx.Response:
    try:
        return next(answers)
    except httpx.TimeoutException as error:
        raise Transient(
            "vmm_timeout", f"no answer to {route} within {timeout_s:g} s", route=route
        ) from error
    except httpx.TransportError as error:
        raise Transient(
            "vmm_timeout", f"the connection broke at {route}: {error}", route=route
        ) from error


def _checked(route: str, response: httpx.Response) -> Any:
    status, content = response.status_code, response.content
    try:
        answer = json.loads(content) if content else None
    except ValueError:
        # A fault that quotes the request's bytes does not escape them: it may not be valid JSON.
        answer = content[:_MAX_QUOTED].decode(errors="replace")
    if status in (200, 204):
        return answer
    fault = answer
    if isinstance(answer, dict):
        fault = answer.get("fault_message") or answer.get("error") or answer
    if status == 503:
        raise Transient("vmm_timeout", f"the VMM is too busy for {route}: {fault}", route=route)
    raise Broken(
        "vmm_refused",
        f"Firecracker refused {route}: {fault}",
        hint="the fault is Firecracker's own; compare the pool's configuration with its version",
        route=route,
        status=status,
    )


def _open_run(jail_root: Path) -> int:
    # The path of a socket has at most 107 bytes (unix(7)) and a jail's is longer, so it is opened
    # through a directory descriptor.
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        root = os.open(jail_root, flags)
        try:
            run = os.open("run", flags, dir_fd=root)
        finally:
            os.close(root)
        try:
            if not stat.S_ISSOCK(os.lstat(SOCKET_NAME, dir_fd=run).st_mode):
                raise FileNotFoundError(SOCKET_NAME)
        except OSError:
            os.close(run)
            raise
    except OSError as error:
        raise Transient("vmm_timeout", f"no API socket in {jail_root}: {error}") from error
    return run
