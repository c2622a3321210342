"""The commands of docker-compose.yml, run here without Docker."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from enqueue import HostClient
from enqueue.requests import Ping
from tests.fixtures.dashboard import HOST, Dashboard
from worker.config import RedisConfig
from worker.queue.connection import check, connect

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
BOUND_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files that the service redis-users makes, by its command."""
    directory = tmp_path / "secrets"
    values = {"python": sys.executable, "/secrets": str(directory), "${HOSTD_HOST:-host-a}": HOST}
    command = [values.get(word, word) for word in SERVICES["redis-users"]["command"]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return directory


@pytest.fixture
def redis_port(secrets: Path, tmp_path: Path) -> Iterator[int]:
    """The service redis: its command and configuration, with this test's paths."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here")
    port = free_port()
    service = SERVICES["redis"]
    values = {
        "/etc/redis.conf": str(ROOT / "deploy/redis/redis.conf"),
        "0.0.0.0": "127.0.0.1",  # noqa: S104  what is replaced
        "/data": str(tmp_path),
    }
    command = [values.get(word, word) for word in service["entrypoint"] + service["command"]]
    command += ["--port", str(port), "--aclfile", str(secrets / "users.acl")]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        await_answer(port, tmp_path / "log")
        yield port
    finally:
        process.kill()
        process.wait()


def await_answer(port: int, log: Path) -> None:
    deadline = time.monotonic() + BOUND_S
    with Redis(port=port, username="health", password="any") as redis:
        while True:
            try:
                redis.ping()
            except RedisError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"redis-server did not start: {log.read_text()}") from None
                time.sleep(0.02)
            else:
                return


def test_redis_starts_with_its_configuration_and_refuses_unknown_users(
    redis_port: int, secrets: Path
) -> None:
    with Redis(port=redis_port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()
    config = RedisConfig(
        url=f"redis://hostd-{HOST}@127.0.0.1:{redis_port}/0",
        password_file=str(secrets / f"hostd-{HOST}.password"),
    )
    with connect(config) as worker:
        check(worker, config)


def test_the_healthcheck_of_redis_reports_its_state(redis_port: int) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("no redis-cli here")
    kind, command = SERVICES["redis"]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    for port, code in ((redis_port, 0), (free_port(), 1)):
        asked = command.replace("redis-cli", f"redis-cli -p {port}")
        asked_of = subprocess.run(["sh", "-c", asked], check=False, stderr=subprocess.DEVNULL)
        assert asked_of.returncode == code


def test_the_dashboard_starts_as_its_user_and_is_healthy(redis_port: int, secrets: Path) -> None:
    password = (secrets / "agentd.password").read_text().strip()
    with HostClient(f"redis://agentd:{password}@127.0.0.1:{redis_port}/0") as client:
        client.enqueue(Ping(), host=HOST)
    assert SERVICES["dashboard"]["command"][:3] == ["python", "-m", "worker.dashboard"]
    arguments = ("--password-file", str(secrets / "dashboard.password"))
    dashboard = Dashboard("--redis", f"redis://dashboard@127.0.0.1:{redis_port}/0", *arguments)
    try:
        (queue,) = dashboard.http.get("/0/data/queues.json").json()["queues"]
        assert (queue["name"], queue["count"]) == (f"hostd:{HOST}", 1)
        _, program, script, url = SERVICES["dashboard"]["healthcheck"]["test"]
        assert (program, Path(script).name) == ("python", "healthy.py")
        healthy = [sys.executable, str(ROOT / "deploy/docker/healthy.py")]
        path = httpx.URL(url).path
        assert subprocess.run([*healthy, f"{dashboard.url}{path}"], check=False).returncode == 0
    finally:
        dashboard.stop()
    down = subprocess.run(
        [*healthy, f"{dashboard.url}{path}"], check=False, stderr=subprocess.DEVNULL
    )
    assert down.returncode == 1
