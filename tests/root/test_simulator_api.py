"""The stand-in and hostd's driver against Firecracker's published API description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from enqueue.documents import RateLimiter, TokenBucket
from tests.contract.test_vmm import moved
from tests.fixtures.simulator import Simulator
from tests.fixtures.vmm import Programs, Rig, driver_rig
from worker import simulator as stand_in
from worker.ports import VmSpec

pytestmark = pytest.mark.root

TABLE = json.loads((Path(__file__).parents[1] / "data/firecracker-api.json").read_text())
# The requests that the stand-in serves: those that hostd sends and those that its tests send.
SERVED = (
    "GET /",
    "GET /machine-config",
    "GET /vm/config",
    "PUT /actions",
    "PUT /boot-source",
    "PUT /cpu-config",
    "PUT /drives/{drive_id}",
    "PUT /entropy",
    "PUT /logger",
    "PUT /machine-config",
    "PATCH /machine-config",
    "PUT /network-interfaces/{iface_id}",
    "PUT /serial",
    "PUT /snapshot/create",
    "PUT /snapshot/load",
    "PATCH /vm",
    "PUT /vsock",
)
# Values to use instead of the sample's, where Firecracker or the stand-in refuses the sample.
NEEDED: dict[str, dict[str, Any]] = {
    "PUT /actions": {"action_type": "SendCtrlAltDel"},
    "PUT /snapshot/load": {"mem_backend": {"backend_type": "File", "backend_path": "x"}},
}
# The description says 500 for a fault without a status of its own; in fact it is always this.
FAULT = 400
SAMPLES: dict[str, Any] = {"string": "x", "integer": 3, "boolean": True, "object": {}, "array": []}


def schema(operation: str) -> dict[str, Any]:
    """The request's body as JSON Schema, without other fields."""
    definitions = {name: closed(body) for name, body in TABLE["definitions"].items()}
    body = TABLE["operations"][operation].get("body", {"not": {}})
    return {**closed(body), "definitions": definitions}


def closed(body: dict[str, Any]) -> dict[str, Any]:
    """The same schema, without other fields."""
    body = {name: value for name, value in body.items() if name != "format"}
    return {"additionalProperties": False} | body if "properties" in body else body


def sample(body: dict[str, Any]) -> Any:
    """A value with the required fields."""
    if "$ref" in body:
        body = TABLE["definitions"][body["$ref"].rpartition("/")[2]]
    if "enum" in body:
        return body["enum"][0]
    if "properties" not in body:
        return SAMPLES[body["type"]]
    return {name: sample(body["properties"][name]) for name in body.get("required", [])}


def operation(method: str, path: str) -> str:
    """The description's name of this request."""
    for name in TABLE["operations"]:
        known, _, pattern = name.partition(" ")
        start, brace, _ = pattern.partition("{")
        same = path.startswith(start) if brace else path == pattern
        if known == method and same:
            return str(name)
    raise AssertionError(f"{method} {path} is not described")


def request(name: str) -> tuple[str, str, Any]:
    """Method, path and a valid body of a described request."""
    described = TABLE["operations"][name]
    method, _, path = name.partition(" ")
    body: Any = None
    if "body" in described:
        body = sample(described["body"]) | NEEDED.get(name, {})
        jsonschema.validate(body, schema(name))
    if "{" in path:
        identifier = path[path.index("{") + 1 : -1]
        path = f"{path.partition('{')[0]}{body[identifier]}"
    return method, path, body


@pytest.mark.parametrize("name", SERVED)
def test_every_served_request_is_answered_with_a_described_status(
    simulator: Simulator, name: str
) -> None:
    simulator.faults(version="1.17.0-dev")
    status, content = simulator.start("a").call(*request(name))
    assert str(status) in TABLE["operations"][name]["responses"] or status == FAULT
    if status == FAULT:
        assert "request method and/or path" not in content["fault_message"]
        assert "deserializing" not in content["fault_message"]


def test_every_other_described_request_is_refused_as_an_unknown_one(simulator: Simulator) -> None:
    simulator.faults(version="1.17.0-dev")
    vmm = simulator.start("a")
    assert set(SERVED) < set(TABLE["operations"])
    for name in set(TABLE["operations"]) - set(SERVED):
        method, path, body = request(name)
        first = path.split("/")[1]
        unknown = f"Invalid request method and/or path: {method} {first}."
        empty = f"Empty {method} request."
        assert vmm.fault(method, path, body) == (
            empty if method != "GET" and body is None else unknown
        )


def test_faults_differ_from_the_description_as_firecrackers_do() -> None:
    described = {status for known in TABLE["operations"].values() for status in known["responses"]}
    assert not described & {"413", "503"}


@pytest.mark.parametrize("name", [n for n in SERVED if "body" in TABLE["operations"][n]])
def test_field_that_is_not_described_is_refused(simulator: Simulator, name: str) -> None:
    simulator.faults(version="1.17.0-dev")
    method, _, path = name.partition(" ")
    body = sample(TABLE["operations"][name]["body"]) | NEEDED.get(name, {}) | {"undescribed": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema(name))
    fault = simulator.start("a").fault(method, path.replace("{", "").replace("}", ""), body)
    assert "unknown field `undescribed`" in fault


@pytest.fixture
def rig(request: pytest.FixtureRequest, vmm_spec: VmSpec, tmp_path: Path) -> Iterator[Rig]:
    """hostd's driver with limits on everything; its requests are recorded."""
    programs = Programs(*stand_in.install(tmp_path / "programs", requests="/requests"))
    bandwidth, ops = (TokenBucket(size=size, refill_time=100) for size in (1 << 20, 1000))
    limiter = RateLimiter(bandwidth=bandwidth, ops=ops)
    drives = tuple(replace(drive, limiter=limiter) for drive in vmm_spec.drives)
    spec = replace(vmm_spec, drives=drives, rx_limiter=limiter, tx_limiter=limiter)
    made = driver_rig(request, programs, spec, tmp_path)
    yield made
    made.clean()


def test_all_that_the_driver_sends_in_a_life_is_described(rig: Rig, tmp_path: Path) -> None:
    def recorded() -> list[tuple[str, str, Any]]:
        text = (rig.jail().root / "requests").read_text()
        return [tuple(json.loads(line)) for line in text.splitlines()]

    rig.up()
    rig.vmm.pause(rig.ref)
    rig.vmm.resume(rig.ref)
    rig.vmm.pause(rig.ref)
    image = moved(rig.vmm.snapshot(rig.spec), tmp_path / "image")
    rig.vmm.kill(rig.ref, timeout_s=5)
    sent = recorded()
    rig.load(image)
    rig.vmm.resume(rig.ref)
    assert rig.vmm.ask_to_stop(rig.ref, timeout_s=10)
    sent += recorded()
    for method, path, body in sent:
        name = operation(method, path)
        if body is not None:
            jsonschema.validate(body, schema(name))
    names = {operation(method, path) for method, path, _ in sent}
    assert {
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/{drive_id}",
        "PUT /network-interfaces/{iface_id}",
        "PUT /vsock",
        "PUT /actions",
        "PATCH /vm",
        "PUT /snapshot/create",
        "PUT /snapshot/load",
    } <= names
    limited = [
        body for _, _, body in sent if body and set(body) & {"rate_limiter", "rx_rate_limiter"}
    ]
    assert len(limited) == len(rig.spec.drives) + 1
