"""Faults at any request of the API: status, hang, hang-up, death; before or after its effect."""

from __future__ import annotations

import http.client
from typing import Any

import pytest

from tests.fixtures.simulator import Connection, Simulator, Vmm
from worker.simulator import install

pytestmark = pytest.mark.root

SIZE = {"vcpu_count": 1, "mem_size_mib": 16}
REQUEST = "PUT /machine-config"
CUT = (http.client.RemoteDisconnected, ConnectionError)


def started(simulator: Simulator, rule: Any, request: str = REQUEST) -> Vmm:
    """Starts a VMM with one rule."""
    simulator.faults(routes={request: rule})
    return simulator.start("a")


def mem_size_mib(vmm: Vmm) -> int:
    """The memory size in the machine's configuration."""
    return int(vmm.ok("GET", "/machine-config")["mem_size_mib"])


@pytest.mark.parametrize("status", [400, 500])
def test_a_status_is_sent_and_the_request_has_no_effect(simulator: Simulator, status: int) -> None:
    vmm = started(simulator, {"status": status, "message": "no luck"})
    assert vmm.call("PUT", "/machine-config", SIZE) == (status, {"fault_message": "no luck"})
    assert mem_size_mib(vmm) == 128


def test_503_has_the_body_of_a_full_server_and_ends_the_connection(simulator: Simulator) -> None:
    vmm = started(simulator, {"status": 503, "message": "Too many open connections"})
    connection = Connection(vmm.api)
    connection.request("PUT", "/machine-config", b"{}")
    reply = connection.getresponse()
    assert reply.status == 503
    assert reply.read() == b'{"error":"Too many open connections"}'
    assert connection.sock.recv(1) == b""
    connection.close()
    assert mem_size_mib(vmm) == 128


def test_after_means_that_the_request_had_its_effect(simulator: Simulator) -> None:
    vmm = started(simulator, {"status": 400, "after": True})
    assert vmm.call("PUT", "/machine-config", SIZE)[0] == 400
    assert mem_size_mib(vmm) == 16


@pytest.mark.parametrize(("after", "size"), [(False, 128), (True, 16)])
def test_connection_is_closed_and_the_vmm_lives(
    simulator: Simulator, after: bool, size: int
) -> None:
    vmm = started(simulator, {"close": True, "after": after})
    with pytest.raises(CUT):
        vmm.call("PUT", "/machine-config", SIZE)
    assert mem_size_mib(vmm) == size


def test_only_the_nth_request_of_each_vmm_is_hit(simulator: Simulator) -> None:
    vmm = started(simulator, [{"status": 400, "nth": 2}, {"status": 500, "nth": 3}])
    statuses = [vmm.call("PUT", "/machine-config", SIZE)[0] for _ in range(4)]
    assert statuses == [204, 400, 500, 204]
    assert simulator.start("b").call("PUT", "/machine-config", SIZE)[0] == 204


@pytest.mark.parametrize("code", [1, 148, 149, 150, 151])
def test_vmm_exits_with_the_code_before_it_has_answered(simulator: Simulator, code: int) -> None:
    vmm = started(simulator, {"exit": code})
    with pytest.raises(CUT):
        vmm.call("PUT", "/machine-config", SIZE)
    assert vmm.jailer.wait() == code


def test_vmm_exits_when_it_has_answered(simulator: Simulator) -> None:
    vmm = started(simulator, {"exit": 148, "answered": True})
    assert vmm.call("PUT", "/machine-config", SIZE)[0] == 204
    assert vmm.jailer.wait() == 148


def test_vmm_is_killed_by_a_signal(simulator: Simulator) -> None:
    vmm = started(simulator, {"signal": 11})
    with pytest.raises(CUT):
        vmm.call("PUT", "/machine-config", SIZE)
    assert vmm.jailer.wait() == -11


def test_a_star_matches_any_rest_and_an_exact_path_has_precedence(simulator: Simulator) -> None:
    simulator.faults(routes={"P*": {"status": 500}, REQUEST: {"status": 400}})
    vmm = simulator.start("a")
    assert vmm.call("PUT", "/machine-config", SIZE)[0] == 400
    assert vmm.call("PATCH", "/machine-config", SIZE)[0] == 500


def test_a_hanging_vmm_never_answers_again(simulator: Simulator) -> None:
    vmm = started(simulator, {"hang": True})
    connection = Connection(vmm.api)
    connection.request("PUT", "/machine-config", b"{}")
    connection.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.sock.recv(1)
    connection.close()
    assert not vmm.gone()


@pytest.mark.parametrize("rule", [{"stauts": 400}, 400])
def test_an_unknown_rule_is_refused(simulator: Simulator, rule: Any) -> None:
    with pytest.raises(ValueError, match="routes"):
        install(simulator.base / "bin", routes={REQUEST: rule})
