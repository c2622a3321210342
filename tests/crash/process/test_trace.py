"""The fuse counts every change that hostd makes to the machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from enqueue.results import Done
from tests.crash.process import trace
from tests.crash.process.entry import Counting
from tests.crash.process.host import ROOT, WAIT_S, Machine, effects
from tests.crash.process.operations import OPERATIONS, Operation
from tests.fixtures.redis import RedisServer

pytestmark = [pytest.mark.root, pytest.mark.redis, pytest.mark.slow]
# Together they apply every step.
NAMES: Final = ("SetupNetwork", "TeardownNetwork", "the first Start", "Sleep", "Wake", "Destroy")
TRACED: Final = [operation for operation in OPERATIONS if operation.name in NAMES]
FEWEST: Final = 10


@pytest.fixture
def machine(redis_server: RedisServer) -> Iterator[Machine]:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    with Machine(redis_server) as made:
        yield made


@pytest.mark.parametrize("operation", TRACED, ids=[operation.name for operation in TRACED])
def test_every_call_that_changes_something_is_part_of_a_counted_effect(
    operation: Operation, machine: Machine
) -> None:
    ref = machine.instance(1)
    for before in operation.before:
        assert isinstance(machine.ask(before(ref)), Done)
    if operation.before:
        machine.rest()
    machine.kill()
    ticket = machine.enqueue(operation.asked(ref))
    traced = _traced(machine)
    machine.serve()
    assert isinstance(machine.answer(ticket), Done)
    assert traced.effects == len(effects(machine.log.read_text())) > FEWEST
    assert traced.within >= traced.effects
    assert traced.escaped == [], "calls that no effect counts:\n" + "\n".join(traced.escaped)


def _traced(machine: Machine) -> trace.Trace:
    host = machine.hostd
    order, output = host.base / "order.json", host.base / "trace"
    order.write_bytes(msgspec.json.encode(machine.order(Counting.REQUEST)))
    calls = ",".join(trace.names())
    # Detached from other programs, since the trace would last as long as the guest.
    strace = ["strace", "-f", "-b", "execve", "-y", "-s", "2000", "-o", str(output)]
    strace += ["-e", f"trace={calls}"]
    run = [sys.executable, "-m", "tests.crash.process.entry", str(order)]
    process = host.spawn(*strace, *run, cwd=ROOT, stderr=subprocess.STDOUT)
    assert process.wait(WAIT_S) == 0, host.said()[-3000:]
    return trace.read(Path(output).read_text(errors="backslashreplace"))
