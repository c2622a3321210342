"""The files under deploy/: what they name exists, and their readers accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from enqueue.hostctl import acl
from enqueue.hostctl.acl_files import write
from worker import config
from worker.daemon.hostd import STOP_SPARE_S
from worker.protocol.metrics import Metrics
from worker.queue.consumer import BLOCK_S

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus/hostd.rules.yml").read_text())[
    "groups"
][0]["rules"]
METRIC = re.compile(r"\bhostd_[a-z_]+")
FOUND_ELSEWHERE = r'gauge\(\s*"(hostd_[a-z_]+)"|GaugeMetricFamily\(\s*"(hostd_[a-z_]+)"'


def exported() -> set[str]:
    """The names that a scrape of hostd may contain."""
    registry = Metrics().registry
    names = {sample.name for family in registry.collect() for sample in family.samples}
    for family in registry.collect():
        names |= {f"{family.name}{suffix}" for suffix in SUFFIXES[family.type]}
    for source in (ROOT / "worker").rglob("*.py"):
        for groups in re.findall(FOUND_ELSEWHERE, source.read_text()):
            names |= set(groups) - {""}
    return names


SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gauge": ("",),
    "info": ("_info",),
}


def test_the_alerts_and_the_dashboard_name_metrics_that_exist() -> None:
    named = set(METRIC.findall(" ".join(rule["expr"] for rule in RULES)))
    grafana = json.loads((DEPLOY / "grafana/hostd.json").read_text())
    queries = [target["expr"] for panel in grafana["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in grafana["templating"]["list"]]
    named |= set(METRIC.findall(" ".join(queries)))
    assert len(named) > 10
    assert named - exported() == set()


def test_each_alert_has_a_severity_a_summary_and_its_own_anchor() -> None:
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert len({rule["alert"] for rule in RULES}) == len(RULES)


def test_prometheus_accepts_its_configuration_and_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here: Debian's package `prometheus`")
    path = DEPLOY / "prometheus/prometheus.yml"
    checked = subprocess.run(
        [promtool, "check", "config", str(path)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rules_that_prometheus_loads_exist() -> None:
    loaded = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["rule_files"]
    assert [(DEPLOY / "prometheus" / name).exists() for name in loaded] == [True]


def test_the_example_of_a_configuration_is_accepted() -> None:
    document = tomllib.loads((DEPLOY / "hostd.toml").read_text())
    built = config.build(document, {})
    assert built.host == "host-a"
    assert built.paths == config.PathsConfig()
    assert built.worker.stop_timeout_s == config.WorkerConfig().stop_timeout_s


def test_the_example_of_an_acl_is_the_generators_output() -> None:
    assert (DEPLOY / "redis/users.acl").read_text() == acl.acl_lines("host-a")


def test_redis_keeps_every_write_and_evicts_nothing() -> None:
    lines = (DEPLOY / "redis/redis.conf").read_text().splitlines()
    settings = dict(line.split(" ", 1) for line in lines if line and line[0] != "#")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "always"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["bind"] == "127.0.0.1 -::1"
    assert settings["aclfile"].endswith("/users.acl")


def test_passwords_are_made_once_and_readable_by_their_owners_only(tmp_path: Path) -> None:
    path = write(tmp_path / "secrets", ["host-a"])
    first = path.read_text()
    assert write(tmp_path / "secrets", ["host-a"]).read_text() == first
    off = [line.split()[1] for line in first.splitlines() if " off " in line]
    assert off == ["default"]
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
    password = (path.parent / "hostd-host-a.password").read_text().strip()
    assert acl.password_hash(password) in first
    assert password not in first


# ---------------------------------------------------------------- systemd


def unit(name: str) -> dict[str, str]:
    lines = (DEPLOY / "systemd" / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")


def test_systemd_keeps_guests_running_and_lets_requests_end() -> None:
    service = unit("hostd.service")
    assert service["KillMode"] == "process"
    assert service["Delegate"] == "yes"
    assert service["Restart"] == "always"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    needed_s = config.WorkerConfig().stop_timeout_s + STOP_SPARE_S + config.RedisConfig().timeout_s
    assert float(service["TimeoutStopSec"]) > needed_s + BLOCK_S
    # Each would give hostd its own mount namespace, or hide a part of the kernel.
    barred = ("PrivateTmp", "ProtectSystem", "PrivateDevices", "PrivateNetwork", "ReadWritePaths")
    kernel = ("ProtectKernelTunables", "ProtectControlGroups", "RestrictNamespaces")
    assert [key for key in (*barred, *kernel) if key in service] == []


@pytest.mark.parametrize("name", ["hostd.service", "hostd-dashboard.service"])
def test_systemd_knows_every_key_of_a_unit(name: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    text = (DEPLOY / "systemd" / name).read_text()
    path = tmp_path / name
    # The programs of the unit are not installed here.
    path.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    # Debian 12's systemd 252 ignores this key of 254.
    newer = "DelegateSubgroup"
    faults = [line for line in verified.stderr.splitlines() if name in line and newer not in line]
    assert faults == []
