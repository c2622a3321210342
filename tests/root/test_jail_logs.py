"""Logs of VMMs and jailers: bounded, and readable to the last word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.vmm import REF, Rig
from worker.host.firecracker.jail import logs
from worker.host.firecracker.jail.files import LOG
from worker.linux import processes
from worker.ports import VmmState

pytestmark = pytest.mark.root


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def test_a_log_that_grew_is_trimmed_to_its_last_words_under_the_running_vmm(driven: Rig) -> None:
    driven.up()
    log = driven.layout.runtime(REF) / LOG
    inside = driven.jail().root / LOG
    with inside.open("r+b") as file:  # as the VMM has it open: not for appending
        file.write(b"noise\n" * (1 << 20))
        file.write(b"last words\n")
        file.flush()
        os.fsync(file.fileno())
        driven.vmm.trim_logs()
        assert log.stat().st_blocks * 512 <= 128 << 10
        assert logs.tail(driven.layout.runtime(REF)).endswith("last words")
        file.write(b"and more\n")
    assert log.stat().st_blocks * 512 <= 128 << 10
    assert logs.tail(driven.layout.runtime(REF)).endswith("and more")
    assert driven.vmm.state(REF) is VmmState.RUNNING


def test_a_small_log_is_left_as_it_is(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_bytes(b"x" * (1 << 20))
    logs.trim(log)
    assert log.read_bytes() == b"x" * (1 << 20)


def test_a_symlink_in_the_logs_place_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"x" * (2 << 20))
    state = tmp_path / "state"
    runtime = state / "tenants/a/pools/p/instances/i/runtime"
    runtime.mkdir(parents=True)
    (runtime / LOG).symlink_to(target)
    logs.trim_all(state)
    assert target.read_bytes() == b"x" * (2 << 20)


def test_the_vmm_has_no_stream_of_its_own_but_its_log(driven: Rig) -> None:
    driven.up()
    pid = driven.pid()
    assert [Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in (0, 1, 2)] == [Path("/dev/null")] * 3
    with processes.open_pidfd(pid) or pytest.fail("no VMM") as vmm:
        assert vmm.alive()
    metrics = [path.name for path in driven.jail().root.rglob("*metrics*")]
    assert metrics == []
