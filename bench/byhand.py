"""The minimum that starts or wakes the same VMM: the jailer, then the same API calls, by hand.

The jail is built and the TAP attached to its bridge beforehand; nothing is recorded or checked.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from bench.sandbox import Sandbox
from enqueue.requests import bridge_name
from worker.config import VmmConfig
from worker.host.cgroups.cgroups import KernelCgroups
from worker.host.firecracker import guest_calls as guest
from worker.host.firecracker.api.client import SOCKET_NAME, Api
from worker.host.firecracker.driver import Firecracker
from worker.host.firecracker.jail import jailer
from worker.host.firecracker.jail.jail import Jail
from worker.host.firecracker.launch import read_pid
from worker.linux import processes
from worker.linux.tap import new_tap
from worker.model.layout import Layout
from worker.model.names import net_id_of
from worker.plans.guest_spec import limits
from worker.ports import ImageFiles, VmSpec

POLL_S: Final = 0.0005
TIMEOUT_S: Final = 20


@dataclass(frozen=True, slots=True)
class ByHand:
    """Milliseconds of each part: a start (`spawn` until the API socket exists, `boot`), pause and
    Full snapshot, and a wake (`respawn` until the API socket exists, `load`)."""

    spawn_ms: float
    boot_ms: float
    snapshot_ms: float
    respawn_ms: float
    load_ms: float

    @property
    def start_ms(self) -> float:
        """From the start to the guest's boot."""
        return self.spawn_ms + self.boot_ms

    @property
    def wake_ms(self) -> float:
        """From the start until the guest runs again."""
        return self.respawn_ms + self.load_ms


class Plain:
    """Calls Firecracker's API, and checks only the status."""

    def __init__(self, connection: socket.socket) -> None:
        self._http = HTTPConnection("localhost")
        self._http.sock = connection

    def put(self, path: str, body: Mapping[str, Any], *, timeout_s: float = TIMEOUT_S) -> None:
        """Sends `PUT path`."""
        self._http.sock.settimeout(timeout_s)
        self.ask("PUT", path, body)

    def put_all(self, bodies: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Sends a `PUT` of each path, one after another, as by hand."""
        for path, body in bodies:
            self.put(path, body)

    def ask(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        """Makes one call.

        Raises:
            RuntimeError: the VMM refused it.
        """
        self._http.request(method, path, msgspec.json.encode(body))
        answer = self._http.getresponse()
        if answer.status not in (200, 204):
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.read()!r}")
        answer.read()


def run(box: Sandbox, spec: VmSpec, *, confined: bool) -> ByHand:
    """Starts the guest with copies of its disks, snapshots it, wakes it and ends it.

    hostd's own guest of that spec must have ended.  `confined` puts the VMM into a control group
    with hostd's limits before the jailer runs.
    """
    base = box.base / "by-hand"
    base.mkdir()
    spec = with_copied_disks(spec, base)
    layout = Layout(base)
    driver = Firecracker(layout, firecracker=box.guest.firecracker, jailer=box.guest.jailer)
    program = box.guest.firecracker.resolve()
    jail = Jail(layout.jail_base(spec.ref), program.name, spec.ref.instance_id)
    processes.adopt_orphans()
    try:
        with box.namespace.entered(), _tap(spec), _group(box, spec, confined) as join_files:
            driver.build_jail(spec, None)
            argv = jailer.command(spec, jail, jailer=box.guest.jailer, firecracker=program)
            (jail.root / "snapshot").mkdir()
            os.chown(jail.root / "snapshot", spec.uid, spec.uid)
            try:
                started = _started(jail, argv, join_files, spec)
                image = ImageFiles(*(_kept(jail, base, name) for name in ("vmstate", "memory")))
            finally:
                _end(jail)
            driver.build_jail(spec, image)
            try:
                return ByHand(*started, *_woken(jail, argv, join_files, spec))
            finally:
                _end(jail)
    finally:
        shutil.rmtree(base)


def _kept(jail: Jail, directory: Path, name: str) -> Path:
    """Moves a file of the snapshot out of the jail, before that is removed."""
    return (jail.root / "snapshot" / name).rename(directory / name)


def with_copied_disks(spec: VmSpec, directory: Path) -> VmSpec:
    """The spec with sparse copies of its disks in `directory`."""
    drives = []
    for drive in spec.drives:
        copy = directory / f"{drive.id}.disk"
        subprocess.run(["cp", "--sparse=always", drive.source, copy], check=True)
        copy.chmod(0o644)
        drives.append(replace(drive, source=copy))
    return replace(spec, drives=tuple(drives))


def _started(
    jail: Jail, argv: tuple[str, ...], join_files: tuple[Path, ...], spec: VmSpec
) -> tuple[float, float, float]:
    began = time.perf_counter()
    launched = _launched(argv, join_files, jail.base / "jailer.log")
    with _connected(jail.root / "run", began + TIMEOUT_S) as connection:
        spawned = time.perf_counter()
        api = Plain(connection)
        guest.boot(cast("Api", api), spec)
        booted = time.perf_counter()
        api.ask("PATCH", "/vm", {"state": "Paused"})
        paths = {"snapshot_path": "/snapshot/vmstate", "mem_file_path": "/snapshot/memory"}
        api.put("/snapshot/create", {"snapshot_type": "Full", **paths})
        saved = time.perf_counter()
    launched.wait()
    return (spawned - began) * 1e3, (booted - spawned) * 1e3, (saved - booted) * 1e3


def _woken(
    jail: Jail, argv: tuple[str, ...], join_files: tuple[Path, ...], spec: VmSpec
) -> tuple[float, float]:
    began = time.perf_counter()
    launched = _launched(argv, join_files, jail.base / "jailer.log")
    with _connected(jail.root / "run", began + TIMEOUT_S) as connection:
        spawned = time.perf_counter()
        api = Plain(connection)
        guest.load(cast("Api", api), clock_realtime=False)
        api.ask("PATCH", "/vm", {"state": "Resumed"})
        awake = time.perf_counter()
    launched.wait()
    return (spawned - began) * 1e3, (awake - spawned) * 1e3


def _launched(
    argv: tuple[str, ...], join_files: tuple[Path, ...], log: Path
) -> subprocess.Popen[bytes]:
    if join_files:
        return jailer.launch(argv, join_files, log)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, env={}, umask=0o077)


@contextmanager
def _tap(spec: VmSpec) -> Iterator[None]:
    """The guest's TAP, up and on its tenant's bridge as hostd's: opening it then takes longer."""
    net_id = net_id_of(spec.tap)
    assert net_id is not None
    with new_tap(spec.tap, owner_uid=spec.uid):
        pass
    try:
        subprocess.run(
            ["ip", "link", "set", spec.tap, "master", bridge_name(net_id), "up"], check=True
        )
        yield
    finally:
        subprocess.run(["ip", "link", "delete", spec.tap], check=True)


@contextmanager
def _group(box: Sandbox, spec: VmSpec, confined: bool) -> Iterator[tuple[Path, ...]]:
    if not confined:
        yield ()
        return
    groups, name = KernelCgroups(box.base.name), spec.ref.instance_id
    groups.put(name, limits(spec, overhead_mib=VmmConfig().overhead_mib))
    try:
        yield groups.join_files(name)
    finally:
        groups.kill(name, timeout_s=TIMEOUT_S)
        groups.remove(name)


def _connected(directory: Path, deadline: float) -> socket.socket:
    """A connection, as soon as something listens there."""
    while time.perf_counter() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            # The path is longer than a socket's may be.
            fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{fd}/{SOCKET_NAME}")
            finally:
                os.close(fd)
        except OSError:
            connection.close()
            time.sleep(POLL_S)
            continue
        return connection
    raise TimeoutError(f"no API socket in {directory}")


def _end(jail: Jail) -> None:
    pid = read_pid(jail.pid_file)
    vmm = None if pid is None else processes.open_pidfd(pid)
    if vmm is not None:
        with vmm:
            vmm.signal(signal.SIGKILL)
            vmm.wait(timeout_s=TIMEOUT_S)
            vmm.exit_code()
