"""docker-compose.yml: valid by the Compose Specification, and safe in its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from worker import config

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"redis-users"}
LASTING = sorted(set(SERVICES) - ONCE)
WORKER = SERVICES["worker"]


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Source and options of each mount, by target."""
    found = {}
    for volume in service["volumes"]:
        if isinstance(volume, dict):
            propagation = volume.get("bind", {}).get("propagation", "")
            found[volume["target"]] = (volume["source"], propagation)
        else:
            source, target, *options = volume.split(":")
            found[target] = (source, ",".join(options))
    return found


def test_it_is_valid_by_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(COMPOSE)


def test_the_services_are_those_of_a_host() -> None:
    assert {"redis", "worker", "dashboard", "prometheus"} | ONCE == set(SERVICES)


def test_guests_outlive_the_worker() -> None:
    assert WORKER["pid"] == "host"
    assert WORKER["cgroup"] == "host"
    assert WORKER["network_mode"] == "host"
    assert WORKER["privileged"] is True
    assert "/dev/kvm:/dev/kvm" in WORKER["devices"]


def test_the_worker_keeps_its_state_where_its_configuration_says() -> None:
    paths = config.PathsConfig()
    found = mounts(WORKER)
    assert found[str(paths.state)] == (str(paths.state), "rshared")
    assert found[str(paths.runtime)] == (str(paths.runtime), "rshared")
    assert found[str(paths.ledger.parent)][0] == str(paths.ledger.parent)
    assert found[str(config.DEFAULT_PATH.parent)] == (str(config.DEFAULT_PATH.parent), "ro")
    assert str(config.DEFAULT_PATH) in WORKER["command"]


def test_the_worker_gets_more_time_to_stop_than_it_needs() -> None:
    assert int(WORKER["stop_grace_period"].removesuffix("s")) > config.WorkerConfig().stop_timeout_s


def test_hostd_reads_the_environment_of_each_service() -> None:
    for name in ("worker", "dashboard"):
        environment = dict.fromkeys(SERVICES[name]["environment"], "host-a")
        environment["HOSTD_HOST"] = "host-a"
        assert config.build({}, environment).host == "host-a"


@pytest.mark.parametrize("name", LASTING)
def test_a_service_has_a_healthcheck_and_is_restarted(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_an_image_is_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert tag[0].isdigit() or tag[0] == "v", tag
    assert "." in tag


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_nothing_listens_beyond_loopback(name: str) -> None:
    service = SERVICES[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    if service.get("network_mode") == "host":
        assert "0.0.0.0" not in " ".join(service["command"])  # noqa: S104  it is what must not be


def test_the_workers_healthcheck_uses_its_address() -> None:
    listen = config.MetricsConfig().listen
    assert WORKER["healthcheck"]["test"][-1] == f"http://{listen}/readyz"
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == [listen]


def test_only_the_worker_is_privileged() -> None:
    assert [name for name in SERVICES if SERVICES[name].get("privileged")] == ["worker"]


def test_every_file_that_is_mounted_or_copied_is_in_the_repository() -> None:
    for service in SERVICES.values():
        for source, _ in mounts(service).values():
            assert not source.startswith("./") or (ROOT / source).exists(), source
    for line in (ROOT / "deploy/docker/Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            missing = [name for name in line.split()[1:-1] if not (ROOT / name).exists()]
            assert missing in ([], ["README.md"]), line


def test_the_dockerfile_has_only_instructions_that_docker_knows() -> None:
    text = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM python:3.")
    known = {"FROM", "RUN", "WORKDIR", "COPY", "STOPSIGNAL", "CMD"}
    assert {line.split()[0] for line in lines} <= known
