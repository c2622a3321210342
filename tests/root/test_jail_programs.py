"""Which programs hostd starts: nobody's but root's, the pinned ones, of one version."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures.vmm import REF, Programs, Rig, driver_rig
from worker import simulator
from worker.errors import Broken
from worker.host.firecracker import ownership as trust
from worker.host.firecracker.driver import Firecracker
from worker.linux import machine
from worker.ports import VmmState, VmSpec

pytestmark = pytest.mark.root
STRANGER = 61_999


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """Stand-ins of the test's own."""
    return Programs(*simulator.install(tmp_path / "programs"))


@pytest.fixture
def rig(
    request: pytest.FixtureRequest, programs: Programs, vmm_spec: VmSpec, tmp_path: Path
) -> Rig:
    return driver_rig(request, programs, vmm_spec, tmp_path)


def refused(driver: Firecracker) -> Broken:
    with pytest.raises(Broken) as failed:
        driver.check_programs()
    assert failed.value.code == "broken/vmm_binary"
    assert failed.value.hint
    return failed.value


def strangers(path: Path) -> None:
    os.chown(path, STRANGER, 0)


def group_writable(path: Path) -> None:
    path.chmod(0o775)


def writable_by_all(path: Path) -> None:
    path.chmod(0o757)


@pytest.mark.parametrize("spoil", [strangers, group_writable, writable_by_all])
@pytest.mark.parametrize("which", ["firecracker", "jailer"])
def test_a_program_that_others_may_change_is_refused_by_name(
    rig: Rig, programs: Programs, which: str, spoil: Callable[[Path], None]
) -> None:
    rig.driver().check_programs()
    spoil(getattr(programs, which))
    assert f"[vmm] {which}" in refused(rig.driver()).message


@pytest.mark.parametrize("spoil", [strangers, group_writable, writable_by_all])
def test_a_program_below_a_directory_that_others_may_change_is_refused(
    rig: Rig, programs: Programs, spoil: Callable[[Path], None]
) -> None:
    spoil(programs.firecracker.parent.parent)
    try:
        assert str(programs.firecracker.parent.parent) in refused(rig.driver()).message
    finally:
        os.chown(programs.firecracker.parent.parent, 0, 0)


def test_a_sticky_directory_that_all_can_write_is_accepted(rig: Rig, programs: Programs) -> None:
    programs.firecracker.parent.chmod(0o1777)
    rig.driver().check_programs()


def test_a_symlink_that_another_may_turn_is_refused(
    rig: Rig, programs: Programs, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(programs.firecracker)
    os.lchown(link, STRANGER, STRANGER)
    driver = Firecracker(rig.layout, firecracker=link, jailer=programs.jailer)
    assert str(STRANGER) in refused(driver).message


def test_a_directory_is_not_a_program(rig: Rig, programs: Programs, tmp_path: Path) -> None:
    driver = Firecracker(rig.layout, firecracker=tmp_path, jailer=programs.jailer)
    assert "not an executable file" in refused(driver).message


def test_jailer_and_firecracker_must_be_of_one_version(
    rig: Rig, programs: Programs, tmp_path: Path
) -> None:
    older = simulator.install(tmp_path / "older", version="1.15.0")[0]
    error = refused(Firecracker(rig.layout, firecracker=older, jailer=programs.jailer))
    assert "1.16.1" in error.message
    assert "1.15.0" in error.message


def test_a_firecracker_older_than_the_oldest_supported_is_refused(rig: Rig, tmp_path: Path) -> None:
    for version, fits in (("1.11.9", False), ("0.25.2", False), ("1.12.0", True), ("2.0.0", True)):
        program = tmp_path / version
        program.write_text(f"#!/bin/sh\necho Firecracker v{version}\n")
        program.chmod(0o755)
        driver = Firecracker(rig.layout, firecracker=program, jailer=program)
        if fits:
            driver.check_programs()
        else:
            assert "older than 1.12" in refused(driver).message


def test_a_program_that_was_replaced_under_a_pinned_digest_is_not_started(
    rig: Rig, programs: Programs
) -> None:
    digests = machine.sha256(programs.firecracker), machine.sha256(programs.jailer)
    driver = Firecracker(
        rig.layout,
        firecracker=programs.firecracker,
        jailer=programs.jailer,
        firecracker_sha256=digests[0],
        jailer_sha256=digests[1],
    )
    driver.build_jail(rig.spec, None)
    driver.check_programs()
    content = programs.jailer.read_bytes()
    programs.jailer.write_bytes(content + b"\n# another\n")
    with pytest.raises(Broken) as failed:
        driver.spawn(rig.spec, rig.join_files)
    assert failed.value.code == "broken/vmm_binary"
    assert "jailer_sha256" in failed.value.message
    assert driver.state(REF) is VmmState.GONE
    assert driver.jail_is_fresh(rig.spec)
    programs.jailer.write_bytes(content)
    driver.spawn(rig.spec, rig.join_files)
    assert driver.state(REF) is VmmState.IDLE
    driver.kill(REF, timeout_s=5)


def test_the_loader_of_a_dynamic_program_is_named_and_a_static_one_has_none(
    tmp_path: Path,
) -> None:
    shell = Path(shutil.which("sh") or pytest.fail("no sh")).resolve()
    assert (trust.interpreter(shell) or "").startswith("/lib")
    static = tmp_path / "static"
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    static.write_bytes(
        ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0) + bytes(56)
    )
    assert trust.interpreter(static) is None
    static.write_bytes(b"#!/bin/sh\n")
    assert trust.interpreter(static) is None


def test_a_dynamic_firecracker_is_refused_since_no_jail_has_its_loader(
    rig: Rig, programs: Programs
) -> None:
    shell = Path(shutil.which("sh") or pytest.fail("no sh"))
    error = refused(Firecracker(rig.layout, firecracker=shell, jailer=programs.jailer))
    assert "linked dynamically" in error.message
    assert "static" in error.hint
