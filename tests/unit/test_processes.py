"""Processes are told apart by more than their pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from worker.linux import processes


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits to be killed."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def identity_of(pid: int) -> processes.Identity:
    process = processes.open_pidfd(pid)
    assert process is not None
    with process:
        identity = process.identity()
    assert identity is not None
    return identity


def test_a_process_is_found_by_its_identity(child: subprocess.Popen[bytes]) -> None:
    with processes.find(identity_of(child.pid)) or pytest.fail("not found") as found:
        assert found.pid == child.pid
        assert found.alive()


@pytest.mark.parametrize(
    "change",
    [{"start_ticks": 1}, {"exe_ino": 1}, {"exe_dev": 1}, {"boot_id": "another"}],
)
def test_a_process_that_differs_in_anything_but_its_pid_is_another(
    child: subprocess.Popen[bytes], change: dict[str, Any]
) -> None:
    assert processes.find(replace(identity_of(child.pid), **change)) is None


def test_a_killed_process_is_gone_and_its_signal_is_its_exit_code(
    child: subprocess.Popen[bytes],
) -> None:
    with processes.open_pidfd(child.pid) or pytest.fail("not held") as process:
        process.signal(signal.SIGKILL)
        assert process.wait(timeout_s=5)
        assert process.identity() is None
        assert process.exit_code() == -signal.SIGKILL
        process.signal(signal.SIGKILL)


def test_looking_for_a_zombie_child_reaps_it(child: subprocess.Popen[bytes]) -> None:
    identity = identity_of(child.pid)
    with processes.open_pidfd(child.pid) or pytest.fail("not held") as process:
        process.signal(signal.SIGKILL)
        assert process.wait(timeout_s=5)
    assert processes.find(identity) is None
    assert processes.stat(child.pid) is None


def test_waiting_for_a_process_that_lives_ends_with_its_timeout(
    child: subprocess.Popen[bytes],
) -> None:
    with processes.open_pidfd(child.pid) or pytest.fail("not held") as process:
        assert not process.wait(timeout_s=0.01)
        assert process.exit_code() is None


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**40])
def test_a_number_that_is_not_a_pid_has_no_process(pid: int) -> None:
    assert processes.open_pidfd(pid) is None


def test_a_name_with_blanks_and_parentheses_does_not_shift_the_fields() -> None:
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b') Z 1 (', 0, 0, 0); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script + "; print()"], stdin=subprocess.PIPE
    ) as process:
        seen = processes.stat(process.pid)
        process.communicate(b"\n")
    assert seen is not None
    assert seen.parent == os.getpid()


def test_the_exit_code_of_an_adopted_orphan_is_known() -> None:
    script = """
import os, subprocess
from worker.linux import processes
processes.adopt_orphans()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    if os.fork() == 0:
        os.write(writer, b"%d" % os.getpid())
        os.read(os.open("/dev/stdin", os.O_RDONLY), 1)
        os._exit(7)
    os._exit(0)
os.waitpid(child, 0)
orphan = processes.open_pidfd(int(os.read(reader, 16)))
os.close(0)
assert orphan is not None and orphan.wait(timeout_s=5)
print(orphan.exit_code())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], input=b"", capture_output=True, check=False, timeout=30
    )
    assert done.stdout == b"7\n", done.stderr
