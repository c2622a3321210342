"""The table of operations is whole, and the rest of hostd asks it instead of naming requests."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from enqueue.requests import InstanceRequest, NetworkRequest, Ping, Request
from tests.fakes.scenarios import SCENARIOS
from tests.unit.test_wire import GOLDEN
from worker.plans.operations import INSTANCE, NETWORK, OPERATIONS

ROOT = Path(__file__).parents[2]
REQUESTS = {request.__name__ for request in get_args(Request)} - {"Ping"}

# An operation's own three files, and the plans of the others.
HOME = ("enqueue/requests.py", "worker/plans/")
# Whatever names a request elsewhere says here why it cannot ask the table.
EXCEPTIONS = {
    "worker/drain/policy.py": "a drain sends these requests itself",
    "worker/drain/controller.py": "it measures the disk by the sleeps that are done",
    "worker/daemon/startup.py": "it looks up the size of the last sleep image",
    "worker/demo/play.py": "the demo is a client",
}


def named_in(path: Path) -> set[str]:
    """The requests that the code of a file names, as a name, an attribute or a whole string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.Constant(value=str(word)):
                found.add(word)
            case _:
                pass
    return found & REQUESTS


@pytest.mark.parametrize(
    ("table", "union"),
    [(OPERATIONS, Request), (INSTANCE, InstanceRequest), (NETWORK, NetworkRequest)],
)
def test_each_request_has_its_row_in_the_table(table: dict[type, object], union: object) -> None:
    missing = {request.__name__ for request in set(get_args(union)) - set(table)}
    assert not missing, "add a row to worker/plans/operations.py"
    assert set(table) == set(get_args(union))


def test_only_an_operation_s_own_files_name_its_request() -> None:
    sources = [path for root in ("worker", "enqueue") for path in (ROOT / root).rglob("*.py")]
    naming = {str(path.relative_to(ROOT)): named for path in sources if (named := named_in(path))}
    elsewhere = {name: named for name, named in naming.items() if not name.startswith(HOME)}
    assert set(elsewhere) == set(EXCEPTIONS), "ask worker.plans.operations, or correct the list"


def test_each_request_has_golden_bytes_and_is_killed_at_every_step() -> None:
    everything = set(get_args(Request))
    assert {type(request) for request, _ in GOLDEN} == everything, "tests/unit/test_wire.py"
    killed = {type(request) for _, request in SCENARIOS.values()}
    assert killed == everything - {Ping}, "tests/fakes/scenarios.py"


@pytest.mark.parametrize("request_type", INSTANCE)
def test_the_audit_log_has_a_word_for_each_operation(request_type: type[Request]) -> None:
    words = [operation.audited_as for operation in INSTANCE.values()]
    assert words.count(INSTANCE[request_type].audited_as) == 1
