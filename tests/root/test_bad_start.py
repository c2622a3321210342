"""`hostd run` that cannot start says what is wrong and what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.redis import RedisServer
from tests.fixtures.worker import BOUND_S, HostdMaker, HostdProcess

pytestmark = [pytest.mark.root, pytest.mark.redis]

FAILED, USAGE, UNREACHABLE = 1, 2, 3
NOBODY = 65534


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a start ended."""

    code: int
    text: str

    def names(self, *words: str) -> bool:
        """Whether every word is in what it said."""
        return all(word in self.text for word in words)


def refused(hostd: HostdProcess, *command: str) -> Refusal:
    """How `hostd run` ends; it says so in lines of its own, without a traceback or a change."""
    before = _files(hostd)
    process = hostd.spawn(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    with process:
        try:
            _, said = process.communicate(timeout=BOUND_S)
        finally:
            process.kill()
    text = said.decode()
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if line.startswith("hostd: ")]
    assert lines, text
    assert _files(hostd) == before
    return Refusal(process.returncode, "\n".join(lines))


def _files(hostd: HostdProcess) -> dict[Path, bytes]:
    """Every file of the host, but for the lock that is empty when nobody holds it, stand-ins, and
    what a hostd that runs writes at any time."""
    own = {"hostd.lock", "log"}
    if hostd.runs():
        own |= {".hostd", "ledger.db", "ledger.db-wal", "ledger.db-shm"}
    return {
        path: path.read_bytes()
        for path in hostd.base.rglob("*")
        if path.is_file() and path.name not in own and "simulator" not in path.parts
    }


@pytest.fixture
def unstarted(make_hostd: HostdMaker) -> HostdProcess:
    """A host that could start."""
    return make_hostd()


def test_every_fault_of_the_configuration_is_named_at_once(unstarted: HostdProcess) -> None:
    unstarted.configure(
        worker={"thread": 4, "threads": 0}, redis={"timeout_s": "soon"}, netwrok={"uplink": "eth0"}
    )
    refusal = refused(unstarted)
    assert refusal.code == USAGE
    assert refusal.names("worker.thread:", "worker.threads = 0", "redis.timeout_s", "netwrok")


def test_a_configuration_that_is_no_toml_is_named(unstarted: HostdProcess) -> None:
    unstarted.config.write_text("host = [")
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names(str(unstarted.config))) == (USAGE, True)


def test_a_missing_configuration_file_is_named(unstarted: HostdProcess) -> None:
    unstarted.config.unlink()
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names(str(unstarted.config))) == (USAGE, True)


def test_a_missing_firecracker_is_named_with_the_way_out(unstarted: HostdProcess) -> None:
    unstarted.configure(vmm={"simulate": False, "firecracker": "/nowhere/firecracker"})
    refusal = refused(unstarted)
    assert refusal.code == FAILED
    assert refusal.names("[vmm] firecracker", "/nowhere/firecracker", "simulate = true")


def test_a_binary_of_another_digest_is_refused(unstarted: HostdProcess) -> None:
    binaries = {"firecracker": "/bin/true", "jailer": "/bin/true"}
    unstarted.configure(vmm={"simulate": False, "firecracker_sha256": "0" * 64, **binaries})
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("/bin/true", "firecracker_sha256")) == (FAILED, True)


def test_a_busy_metrics_port_is_named(unstarted: HostdProcess) -> None:
    with unstarted.namespace.entered():
        taken = socket.create_server(("0.0.0.0", 0))  # noqa: S104  a namespace without devices
    with taken:
        address = f"0.0.0.0:{taken.getsockname()[1]}"
        unstarted.configure(metrics={"listen": address})
        refusal = refused(unstarted)
    assert (refusal.code, refusal.names("[metrics] listen", address)) == (FAILED, True)


def test_a_metrics_socket_that_was_not_inherited_is_named(unstarted: HostdProcess) -> None:
    unstarted.configure(metrics={"listen": "fd:900"})
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("[metrics] listen", "fd:900")) == (FAILED, True)


def test_a_second_hostd_on_the_host_names_the_first(hostd: HostdProcess) -> None:
    refusal = refused(hostd)
    assert (refusal.code, refusal.names("already", f"pid {hostd.pid}")) == (FAILED, True)
    assert hostd.ready()


def test_redis_away_is_named_with_its_address(unstarted: HostdProcess) -> None:
    unstarted.configure(redis={"url": "unix:///nowhere/redis.sock"})
    refusal = refused(unstarted)
    assert refusal.code == UNREACHABLE
    assert refusal.names("/nowhere/redis.sock", "start it", "[redis] url")


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [("appendonly", "no", "yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")],
)
def test_a_redis_that_may_lose_requests_is_refused(
    unstarted: HostdProcess, redis_server: RedisServer, key: str, bad: str, good: str
) -> None:
    server = redis_server.client()
    server.config_set(key, bad)
    try:
        refusal = refused(unstarted)
    finally:
        server.config_set(key, good)
    assert (refusal.code, refusal.names(key, good)) == (FAILED, True)


def test_a_wrong_password_is_named(unstarted: HostdProcess, redis_server: RedisServer) -> None:
    redis_server.add_user("host-a", password="right", rights="~* +@all")
    unstarted.configure(redis={"url": f"unix://host-a:wrong@{redis_server.socket}?db=0"})
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("refuses", "hostctl acl")) == (FAILED, True)
    assert "wrong@" not in refusal.text


def test_a_user_without_rights_is_named(unstarted: HostdProcess, redis_server: RedisServer) -> None:
    redis_server.add_user("host-a", password="right", rights="+ping")
    unstarted.configure(redis={"url": f"unix://host-a:right@{redis_server.socket}?db=0"})
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("refuses", "hostctl acl")) == (FAILED, True)


def test_a_host_without_keys_names_keygen_and_insecure(unstarted: HostdProcess) -> None:
    unstarted.configure(security={"insecure": False})
    refusal = refused(unstarted)
    assert refusal.code == USAGE
    assert refusal.names("security.keys_dir", "hostctl keygen", "security.insecure")


def test_a_key_file_that_is_none_is_named(unstarted: HostdProcess) -> None:
    unstarted.configure(security={"insecure": False})
    (unstarted.base / "keys").mkdir()
    (unstarted.base / "keys" / "agentd.json").write_text("{}")
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("agentd.json")) == (USAGE, True)


def test_without_root_it_says_so(unstarted: HostdProcess) -> None:
    unstarted.base.chmod(0o755)
    # Imports come first: nobody may not be allowed to read where hostd is installed.
    script = "import os, sys, worker.daemon.hostd; from worker.cli import main; os.setgroups([]); "
    script += f"os.setresgid(*3 * [{NOBODY}]); os.setresuid(*3 * [{NOBODY}]); "
    script += f"sys.exit(main({unstarted.arguments!r}))"
    refusal = refused(unstarted, sys.executable, "-c", script)
    assert (refusal.code, refusal.names("root")) == (FAILED, True)


def test_a_name_served_by_another_machine_is_refused_and_left_to_it(
    unstarted: HostdProcess, redis_server: RedisServer
) -> None:
    server = redis_server.client()
    owner = json.dumps({"machine_id": "f00d", "runtime": "/run/hostd", "pid": 7})
    server.set(unstarted.keys.owner, owner, ex=30)
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("f00d", "pid 7", "rename")) == (FAILED, True)
    assert server.get(unstarted.keys.owner) == owner.encode()


def test_an_owner_of_the_wrong_type_is_named(
    unstarted: HostdProcess, redis_server: RedisServer
) -> None:
    redis_server.client().rpush(unstarted.keys.owner, "x")
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names(unstarted.keys.owner)) == (FAILED, True)


def test_a_damaged_ledger_is_named_and_left_as_it_is(
    unstarted: HostdProcess, redis_server: RedisServer
) -> None:
    unstarted.ledger.write_bytes(b"SQLite format 3\0" + os.urandom(8192))
    refusal = refused(unstarted)
    assert refusal.code == FAILED
    assert refusal.names(str(unstarted.ledger), "backup", "runbook")
    assert redis_server.client().exists(unstarted.keys.owner) == 0


def test_a_directory_that_is_a_file_is_named(unstarted: HostdProcess) -> None:
    path = unstarted.base / "file"
    path.touch()
    unstarted.configure(paths={"runtime": str(path)})
    refusal = refused(unstarted)
    assert (refusal.code, refusal.names("[paths] runtime", str(path))) == (FAILED, True)


def test_what_it_says_names_no_password(unstarted: HostdProcess) -> None:
    unstarted.configure(redis={"url": "redis://host-a:s3cret@127.0.0.1:1/0"})
    refusal = refused(unstarted)
    assert refusal.code == UNREACHABLE
    assert re.search("s3cret", refusal.text) is None
