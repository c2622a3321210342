"""Guests live on whatever supervisor runs hostd, and however that ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enqueue.requests import Ping, SetupNetwork, StartInstance, StopInstance, TenantId
from enqueue.results import Pong
from tests.fixtures.host_resources import until
from tests.fixtures.worker import NET_ID, TENANT, HostdMaker, HostdProcess, eventually, ids
from tests.root.test_life import ask, document, done, traces
from worker.demo import documents
from worker.host.cgroups.hierarchies import Hierarchies
from worker.host.cgroups.kill import members, signal_all
from worker.linux import processes

pytestmark = [pytest.mark.root, pytest.mark.redis]


@pytest.fixture
def unit(hierarchies: Hierarchies) -> Iterator[tuple[Path, ...]]:
    """A service manager's control group for hostd, beside that of its guests."""
    directories = tuple(
        mount / f"hostd-test-unit-{os.getpid()}.service" for mount in hierarchies.mounts()
    )
    for directory in directories:
        directory.mkdir()
    yield directories
    signal_all(directories)
    for directory in directories:
        until(lambda at=directory: not at.exists() or _removed(at))  # type: ignore[misc]  # the default binds it early


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return False
    return True


def supervised(process: HostdProcess, unit: tuple[Path, ...]) -> subprocess.Popen[bytes]:
    """A supervisor in a session of its own, and hostd in its group and in the unit's cgroup."""
    joins = [str(directory / "cgroup.procs") for directory in unit]
    script = (
        "import os, subprocess, sys\n"
        f"for file in {joins!r}: open(file, 'w').write(str(os.getpid()))\n"
        f"sys.exit(subprocess.call([sys.executable, '-m', 'worker', *{process.arguments!r}], "
        "close_fds=False))\n"
    )
    supervisor = process.spawn(sys.executable, "-c", script)
    eventually(process.ready, "hostd is ready")
    return supervisor


def guest(process: HostdProcess) -> tuple[dict[str, Any], int]:
    """A running instance: the fields of its requests, and its VMM's pid."""
    client = process.client()
    done(client, SetupNetwork(tenant_id=TenantId(TENANT), net=documents.net(NET_ID)))
    ref = process.instance("i-000000b1")
    done(client, StartInstance(**ids(ref)))
    return ids(ref), document(process, ref)["firecracker_pid"]


@pytest.mark.parametrize("how", ["control group", "process group", "session"])
def test_a_guest_outlives_a_supervisor_that_kills_all_it_knows_of_hostd(
    make_hostd: HostdMaker, unit: tuple[Path, ...], how: str
) -> None:
    process = make_hostd()
    supervisor = supervised(process, unit)
    fields, pid = guest(process)
    with processes.open_pidfd(pid) or pytest.fail("no VMM") as vmm:
        assert pid not in members(unit)
        if how == "control group":
            signal_all(unit)
        elif how == "process group":
            os.killpg(supervisor.pid, signal.SIGKILL)
        else:
            for member in _session(supervisor.pid):
                os.kill(member, signal.SIGKILL)
        supervisor.wait(10)
        eventually(lambda: not process.ready() and not members(unit), "hostd is gone")
        assert vmm.alive()
        process.start()
        client = process.client()
        pong = ask(client, Ping())
        assert isinstance(pong, Pong)
        again = done(client, StartInstance(**fields))  # it is found, not started once more
        assert not again.changed
        assert vmm.alive()
        done(client, StopInstance(**fields))
        assert vmm.wait(timeout_s=10)
    assert traces(process) == []


def _session(leader: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    seen = {pid: processes.stat(pid) for pid in pids}
    return [pid for pid, stat in seen.items() if stat is not None and stat.session == leader]
