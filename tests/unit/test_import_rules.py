"""Every import rule of pyproject.toml notices the import that it is there to forbid."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
LINT: Final = Path(sys.executable).with_name("lint-imports")
# The contract, a module, and the import that is planted in it.
PLANTED: Final = (
    ("worker is layered, downward only", "worker.steps.engine", "worker.plans.plan"),
    ("worker is layered, downward only", "worker.host.links.links", "worker.steps.engine"),
    ("worker is layered, downward only", "worker.host.images.images", "worker.ledger.ledger"),
    ("worker is layered, downward only", "worker.drain.policy", "worker.sweep.orphans"),
    ("enqueue is layered, downward only", "enqueue.requests", "enqueue.client"),
    ("agentd's side never imports the host's side", "enqueue.keys", "worker.errors"),
    ("agentd's side never imports the host's side", "enqueue.client", "rq"),
    ("tables are printed without rich", "enqueue.tables", "rich"),
    ("tables are printed without rich", "worker.commands.output", "rich"),
    (
        "the host's side uses only the pure modules of agentd's",
        "worker.request.attempt",
        "enqueue.client",
    ),
    ("only wiring knows the adapters", "worker.job", "worker.host.links.links"),
    ("only wiring knows the adapters", "worker.daemon.startup", "worker.simulator.vmm"),
    ("only wiring knows the adapters", "worker.sweep.removal", "worker.host.disks.luks"),
    ("the kernel is touched under host and linux only", "worker.model.names", "subprocess"),
    ("the kernel is touched under host and linux only", "worker.scheduling.locks", "ctypes"),
    ("the kernel is touched under host and linux only", "worker.queue.consumer", "pyroute2"),
    ("Redis and RQ are spoken to under queue only", "worker.ledger.ledger", "redis"),
    ("Redis and RQ are spoken to under queue only", "worker.daemon.hostd", "rq"),
    ("SQL is spoken under ledger only", "worker.request.reserve", "sqlite3"),
    ("decisions are pure", "worker.plans.sleep", "time"),
    ("decisions are pure", "worker.sweep.orphans", "os"),
    ("the conversation with Redis does no I/O", "enqueue.conversation.operations", "socket"),
    ("wrappers of the kernel know nothing of hostd", "worker.linux.files", "worker.model.names"),
    ("the stand-ins import the standard library alone", "worker.simulator.api", "msgspec"),
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the checker says of a copy with all of them in it, and a room without a floor."""
    copy = tmp_path_factory.mktemp("planted")
    shutil.copy(ROOT / "pyproject.toml", copy)
    for package in ("enqueue", "worker"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)
    for _, module, imported in PLANTED:
        path = copy / f"{module.replace('.', '/')}.py"
        path.write_text(f"{path.read_text()}\nimport {imported}  # planted\n")
    (copy / "worker" / "attic.py").write_text('"""A module that no layer names."""\n')
    done = subprocess.run(
        [LINT, "--no-logo", "--no-cache"], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


def broken(report: str) -> dict[str, str]:
    """The report's part about each contract that is broken."""
    details = report.partition("Broken contracts\n")[2]
    parts = re.split(r"\n\n(?=[^\n]+\n-{5,}\n)", details)
    return {part.strip().split("\n")[0]: part for part in parts}


@pytest.mark.parametrize(("contract", "module", "imported"), PLANTED)
def test_a_planted_import_breaks_its_contract(
    report: str, contract: str, module: str, imported: str
) -> None:
    assert f"{contract} BROKEN" in report
    assert f"{module} -> {imported}" in broken(report)[contract]


def test_every_contract_has_a_planted_import() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    names = {contract["name"] for contract in contracts["contracts"]}
    assert names == {contract for contract, _, _ in PLANTED}


def test_a_module_that_no_layer_names_is_noticed(report: str) -> None:
    assert "attic" in report
