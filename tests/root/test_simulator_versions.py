"""The stand-in as several versions of Firecracker, with known failures of each."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.fixtures.simulator import Simulator, Vmm
from tests.fixtures.sleeping import load_body, moved, sleep
from worker.simulator import install

pytestmark = pytest.mark.root

FORMATS = {
    "1.12.0": "6.0.0",
    "1.13.2": "8.0.0",
    "1.14.0": "8.0.0",
    "1.15.1": "9.0.0",
    "1.16.0": "10.0.0",
    "1.16.1": "10.0.0",
    "1.17.0-dev": "11.0.0",
}
NEWER: list[
    tuple[str, dict[str, object]]
] = [  # a field of the request to load, and its first minor
    ("1.12", {"network_overrides": []}),
    ("1.13", {"track_dirty_pages": True}),
    ("1.16", {"vsock_override": {"uds_path": "/v"}}),
    ("1.16", {"clock_realtime": True}),
    ("1.17", {"huge_pages": "None"}),
]


def slept(simulator: Simulator, version: str) -> Vmm:
    """A VMM of this version that slept and ended; its image is in its jail."""
    simulator.faults(version=version, agent=True)
    vmm = simulator.boot("a", console=False)
    sleep(vmm)
    vmm.kill()
    simulator.vmms.remove(vmm)
    return vmm


def connects(vmm: Vmm, bound_s: float = 20) -> bool:
    """Whether the guest's agent answers within the bound."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(bound_s)
        client.connect(str(vmm.root / "vsock"))
        client.sendall(b"CONNECT 5252\n")
        try:
            return client.recv(3) == b"OK "
        except TimeoutError:
            return False


@pytest.mark.parametrize("version", FORMATS)
def test_programs_and_api_report_version_and_format(simulator: Simulator, version: str) -> None:
    simulator.faults(version=version)

    def output(*argv: object) -> str:
        return subprocess.check_output([str(word) for word in argv], text=True).split("\n")[0]

    assert output(simulator.firecracker, "--version") == f"Firecracker v{version}"
    assert output(simulator.jailer, "--version") == f"Jailer v{version}"
    assert output(simulator.firecracker, "--snapshot-version") == f"v{FORMATS[version]}"
    vmm = simulator.start("a")
    assert vmm.ok("GET", "/")["vmm_version"] == version


def test_version_before_1_12_is_not_emulated(simulator: Simulator) -> None:
    with pytest.raises(ValueError, match=r"1\.11\.0 is not emulated"):
        install(simulator.base / "bin", version="1.11.0")


@pytest.mark.parametrize("version", ["1.12.0", "1.13.2", "1.15.1", "1.16.1", "1.17.0-dev"])
def test_field_of_a_newer_version_is_refused_and_the_vmm_lives(
    simulator: Simulator, version: str
) -> None:
    simulator.faults(version=version)
    vmm = simulator.start("a")
    minor = int(version.split(".")[1])
    refused = [field for since, field in NEWER if minor < int(since.split(".")[1])]
    for field in refused:
        fault = vmm.fault("PUT", "/snapshot/load", load_body(**field))
        assert f"unknown field `{next(iter(field))}`" in fault
    assert vmm.ok("GET", "/")["state"] == "Not started"
    known = {
        name: value for _, field in NEWER if field not in refused for name, value in field.items()
    }
    assert "Failed to open snapshot file" in vmm.fault("PUT", "/snapshot/load", load_body(**known))


def test_a_request_of_a_newer_version_is_unknown(simulator: Simulator) -> None:
    simulator.faults(version="1.13.2")
    fault = simulator.start("a").fault("PUT", "/serial", {"serial_out_path": "/console"})
    assert fault == "Invalid request method and/or path: PUT serial."


@pytest.mark.parametrize(
    ("written", "read"), [("1.15.1", "1.16.1"), ("1.16.1", "1.15.1"), ("1.12.0", "1.13.2")]
)
def test_image_of_another_format_is_refused_and_ends_the_vmm(
    simulator: Simulator, written: str, read: str
) -> None:
    first = slept(simulator, written)
    simulator.faults(version=read)
    moved(simulator, first, "b")
    second = simulator.start("b")
    fault = second.fault("PUT", "/snapshot/load", load_body())
    assert fault.endswith(f"Invalid data version: {FORMATS[written]}")
    assert second.jailer.wait() == 1


def test_image_of_another_version_of_the_same_format_loads(simulator: Simulator) -> None:
    first = slept(simulator, "1.14.0")
    simulator.faults(version="1.13.2")
    moved(simulator, first, "b")
    simulator.start("b").ok("PUT", "/snapshot/load", load_body())


@pytest.mark.parametrize(("version", "alive"), [("1.16.0", False), ("1.16.1", True)])
def test_vsock_is_dead_after_a_restore_in_1_16_0_only(
    simulator: Simulator, version: str, alive: bool
) -> None:
    first = slept(simulator, version)
    moved(simulator, first, "b")
    second = simulator.start("b")
    second.ok("PUT", "/snapshot/load", load_body(resume_vm=True))
    assert connects(second, 20 if alive else 0.2) is alive


@pytest.mark.parametrize(
    ("version", "alive"),
    [("1.15.1", True), ("1.16.0", False), ("1.16.1", False), ("1.17.0-dev", True)],
)
def test_vsock_after_a_pause_without_a_snapshot(
    simulator: Simulator, version: str, alive: bool
) -> None:
    simulator.faults(version=version, agent=True)
    vmm = simulator.boot("a")
    sleep(vmm)
    vmm.ok("PATCH", "/vm", {"state": "Resumed"})
    assert connects(vmm)
    vmm.ok("PATCH", "/vm", {"state": "Paused"})
    vmm.ok("PATCH", "/vm", {"state": "Resumed"})
    assert connects(vmm, 20 if alive else 0.2) is alive
