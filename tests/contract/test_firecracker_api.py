"""The API that hostd's driver relies on: the same table holds for the stand-in and Firecracker."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.firecracker_table import (
    CREATE,
    FAILED_LOADS,
    LOAD,
    NOT_STARTED,
    PAUSED,
    RUNNING,
    SIZE,
    START,
    Row,
)
from tests.fixtures.simulator import Connection, eventually, halting_kernel, real_binaries
from worker.host.firecracker.api.transport import OneConnection
from worker.simulator import install


class Program:
    """A firecracker program without a jail, in its own directory."""

    def __init__(self, binary: Path, kernel: bytes) -> None:
        self.binary = binary
        self.directory = Path(tempfile.mkdtemp(prefix="fc", dir="/tmp"))
        (self.directory / "kernel").write_bytes(kernel)
        (self.directory / "disk").write_bytes(bytes(1 << 20))
        (self.directory / "stale").touch()
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts a VMM; returns when its API answers."""
        with (self.directory / "out").open("ab") as out:
            name = str(len(self.processes))
            self.process = subprocess.Popen(
                [self.binary, "--api-sock", f"api{name}", "--id", name],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self.processes.append(self.process)
        self.api = self.directory / f"api{name}"

        def answers() -> bool:
            with suppress(OSError):
                return self.call("GET", "/", None) is None
            return False

        eventually(answers, "the API answers")

    def call(self, method: str, path: str, body: Any) -> str | None:
        """The fault message, or None for success."""
        connection = Connection(self.api)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode())
            reply = connection.getresponse()
            content = reply.read()
        finally:
            connection.close()
        if reply.status in (200, 204):
            return None
        assert reply.status == 400
        return str(json.loads(content)["fault_message"])

    def follow(self, rows: list[Row]) -> None:
        """Sends every row's request and checks its answer."""
        for method, path, body, fault in rows:
            assert self.call(method, path, body) == fault, (method, path, body)

    def close(self) -> None:
        """Kills every process and removes all files."""
        for process in self.processes:
            process.kill()
            process.wait()
        subprocess.run(["rm", "-r", self.directory], check=True)


@pytest.fixture(
    params=[
        "simulator",
        pytest.param("real", marks=[pytest.mark.firecracker, pytest.mark.kvm]),
    ]
)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """The stand-in, or the operator's Firecracker."""
    binaries = real_binaries() if request.param == "real" else install(tmp_path)
    made = Program(binaries[0], halting_kernel())
    try:
        yield made
    finally:
        made.close()


def test_each_state_answers_as_firecracker_does(program: Program) -> None:
    program.start()
    program.follow(NOT_STARTED)
    program.follow(RUNNING)
    program.follow(PAUSED)
    assert (program.directory / "mem").stat().st_size == 16 << 20
    assert (program.directory / "mem").stat().st_blocks * 512 >= 16 << 20
    assert (program.directory / "d").stat().st_size == 16 << 20
    assert (program.directory / "d").stat().st_blocks * 512 < 1 << 20


def test_a_diff_without_tracking_contains_all_that_a_full_touched(program: Program) -> None:
    program.start()
    size = SIZE | {"track_dirty_pages": False}
    boot = {"kernel_image_path": "kernel"}
    program.follow([("PUT", "/machine-config", size, None), ("PUT", "/boot-source", boot, None)])
    program.follow([("PUT", "/actions", START, None), *PAUSED])
    assert (program.directory / "d").stat().st_blocks * 512 >= 16 << 20


def snapshot(program: Program) -> None:
    """Leaves a guest's snapshot in the directory, without its VMM and its vsock's socket."""
    program.start()
    program.follow(NOT_STARTED)
    program.follow([("PATCH", "/vm", {"state": "Paused"}, None)])
    program.follow([("PUT", "/snapshot/create", CREATE, None)])
    program.process.kill()
    program.process.wait()
    (program.directory / "v").unlink()


def test_loaded_snapshot_is_paused_and_follows_the_rules_of_a_running_one(
    program: Program,
) -> None:
    snapshot(program)
    program.start()
    program.follow([("PUT", "/snapshot/load", LOAD, None), *PAUSED])
    program.follow([("PATCH", "/vm", {"state": "Resumed"}, None), *RUNNING])


def test_pipelined_calls_are_all_executed_and_answered_in_order(
    program: Program,
) -> None:
    program.start()
    sent = [row for row in NOT_STARTED if row[1] != "/actions"]
    transport = OneConnection(str(program.api), check=lambda _: None)
    requests = [
        httpx.Request(
            method, f"http://localhost{path}", content=None if body is None else json.dumps(body)
        )
        for method, path, body, _ in sent
    ]
    for row, answer in zip(sent, transport.send(requests, 20), strict=True):
        fault = json.loads(answer.content)["fault_message"] if answer.status_code == 400 else None
        assert fault == row[3], row
    transport.close()


@pytest.mark.parametrize(("spoilt", "body", "fault"), FAILED_LOADS)
def test_a_failed_load_is_answered_and_then_the_process_exits_with_1(
    program: Program, spoilt: str, body: dict[str, Any], fault: str
) -> None:
    snapshot(program)
    match spoilt:
        case "short memory":
            os.truncate(program.directory / "mem", 4096)
        case "disk":
            (program.directory / "disk").unlink()
        case "vsock":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(program.directory / "v"))
        case _:
            pass
    program.start()
    program.follow([("PUT", "/snapshot/load", body, fault)])
    assert program.process.wait(20) == 1
