"""A port, its adapter, its fake and its contract suite have one name."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from worker.ports import Host

TOP = Path(__file__).parents[2]
PORTS = [field.name for field in fields(Host)]
ADAPTERS = {"vmm": "firecracker"}  # named for the program that it drives


def names(directory: str) -> set[str]:
    return {path.stem for path in (TOP / directory).iterdir() if not path.stem.startswith("_")}


def test_every_module_of_ports_is_a_port_and_every_room_of_host_is_its_adapter() -> None:
    assert names("worker/ports") == set(PORTS)
    assert names("worker/host") == {ADAPTERS.get(port, port) for port in PORTS}


@pytest.mark.parametrize("port", PORTS)
def test_a_port_has_a_fake_and_a_contract_suite(port: str) -> None:
    fake = (TOP / "tests" / "fakes" / f"{port}.py").read_text()
    assert f"class Fake{port.capitalize()}" in fake
    assert (TOP / "tests" / "contract" / f"test_{port}.py").exists()
