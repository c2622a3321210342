"""The driver on the kernel: control groups, identities, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.test_vmm import until
from tests.fixtures.other_hostd import another_process
from tests.fixtures.vmm import REF, UID, Rig
from worker.errors import Broken, Transient
from worker.host.firecracker.api.client import Api
from worker.host.firecracker.driver import Firecracker
from worker.linux import processes
from worker.ports import VmmState

pytestmark = pytest.mark.root


@pytest.fixture
def driven(driven_vmm: Rig) -> Rig:
    """A machine with the driver."""
    return driven_vmm


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_an_api_socket_deeper_than_107_bytes_answers(driven: Rig) -> None:
    driven.up()
    assert len(str(driven.jail().root / "run/firecracker.socket")) > 107
    assert driven.vmm.state(REF) is VmmState.RUNNING


def test_the_vmm_runs_as_the_jails_user_in_a_pid_namespace_without_environment(
    driven: Rig,
) -> None:
    driven.up()
    pid = driven.pid()
    status = status_of(pid)
    assert set(status["Uid"].split()) == {str(UID)}
    assert status["NSpid"].split()[-1] == "1"
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert processes.stat(pid) is not None


def test_the_vmm_and_nothing_else_is_in_its_control_group(driven: Rig) -> None:
    driven.up()
    pid = driven.pid()
    assert driven.join_files
    assert all(file.read_text().split() == [str(pid)] for file in driven.join_files)


def test_no_descriptor_of_hostd_reaches_the_vmm(driven: Rig, tmp_path: Path) -> None:
    marker = (tmp_path / "marker").open("w")
    with marker:
        os.set_inheritable(marker.fileno(), True)
        driven.up()
        links = []
        for link in Path(f"/proc/{driven.pid()}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                links.append(link.readlink())
    assert links
    assert Path(marker.name) not in links


def test_a_life_leaves_no_descriptor_and_no_zombie(driven: Rig) -> None:
    driven.up()  # the first one imports and opens what stays
    driven.vmm.kill(REF, timeout_s=5)
    before = len(list(Path("/proc/self/fd").iterdir()))
    zombies = _zombies()  # of other tests' hosts, whose orphans come to this process
    driven.up()
    driven.vmm.kill(REF, timeout_s=5)
    driven.vmm.remove_jail(REF)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert _zombies() <= zombies


def _zombies() -> set[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    seen = {pid: processes.stat(pid) for pid in pids}
    return {p for p, s in seen.items() if s and s.parent == os.getpid() and s.state == "Z"}


@pytest.mark.parametrize(
    "moment",
    [
        "launch.Launch._await_jailer = die",
        "launch.Launch._await_pid = die",
        "launch.Launch._await_api = die",
        "vmm_record.write_vmm = die",
    ],
)
def test_a_vmm_that_hostd_was_killed_in_starting_is_found(driven: Rig, moment: str) -> None:
    code = another_process(f"vmm.build_jail(spec, None)\n{moment}\nvmm.spawn(spec, join)\n", driven)
    assert code == -signal.SIGKILL
    assert driven.vmm.state(REF) is VmmState.IDLE
    driven.vmm.boot(driven.spec)
    assert driven.vmm.state(REF) is VmmState.RUNNING
    assert driven.restarted().pid(REF) == driven.vmm.pid(REF)


def test_a_record_of_a_recycled_pid_harms_no_other_process(driven: Rig) -> None:
    driven.up()
    driven.vmm.kill(REF, timeout_s=5)
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        file = driven.layout.runtime(REF) / "vmm.json"
        file.write_text(json.dumps(json.loads(file.read_bytes()) | {"pid": bystander.pid}))
        assert driven.vmm.state(REF) is VmmState.GONE
        driven.vmm.kill(REF, timeout_s=1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_pid_file_that_the_vmm_forged_is_not_believed(driven: Rig) -> None:
    driven.up()
    (driven.layout.runtime(REF) / "vmm.json").unlink()
    with processes.open_pidfd(driven.pid()) or pytest.fail("the VMM is found without its record"):
        (driven.layout.runtime(REF) / "vmm.json").unlink()
        driven.jail().pid_file.write_text(str(os.getpid()))
        impatient = driven.impatient(spawn_timeout_s=0.05)
        assert impatient.pid(REF) is None
        with pytest.raises(Transient) as refused:
            impatient.remove_jail(REF)
        assert refused.value.code == "transient/jail_in_use"


def test_a_damaged_record_is_made_again(driven: Rig) -> None:
    driven.up()
    (driven.layout.runtime(REF) / "vmm.json").write_bytes(b"")
    assert driven.vmm.state(REF) is VmmState.RUNNING


def test_a_vmm_that_does_not_answer_is_late_and_not_gone(driven: Rig) -> None:
    driven.up()
    with processes.open_pidfd(driven.pid()) or pytest.fail("no VMM") as vmm:
        # SIGSTOP does reach the init of a pid namespace when an ancestor sends it.
        vmm.signal(signal.SIGSTOP)
        with pytest.raises(Transient) as late:
            driven.impatient(api_timeout_s=0.1).state(REF)
        assert late.value.code == "transient/vmm_timeout"
        vmm.signal(signal.SIGCONT)
        assert driven.vmm.state(REF) is VmmState.RUNNING


def test_a_vmm_that_died_is_gone_and_its_exit_code_is_known(driven: Rig) -> None:
    driven.up()
    with processes.open_pidfd(driven.pid()) or pytest.fail("no VMM") as vmm:
        vmm.signal(signal.SIGKILL)
        assert vmm.wait(timeout_s=5)
        assert vmm.exit_code() == -signal.SIGKILL
    assert driven.vmm.state(REF) is VmmState.GONE
    with pytest.raises(Broken) as gone:
        driven.vmm.pause(REF)
    assert gone.value.code == "broken/vmm_exited"


def test_a_start_in_a_used_jail_tells_the_jailers_exit_code_and_words(driven: Rig) -> None:
    driven.up()
    driven.vmm.kill(REF, timeout_s=5)
    with pytest.raises(Broken) as failed:
        driven.vmm.spawn(driven.spec, driven.join_files)
    assert failed.value.code == "broken/vmm_exited"
    assert failed.value.facts["exit_code"] == 1
    assert failed.value.facts["log"]
    assert driven.vmm.state(REF) is VmmState.GONE


def test_a_control_group_that_cannot_be_joined_stops_the_start(driven: Rig) -> None:
    driven.vmm.build_jail(driven.spec, None)
    with pytest.raises(Broken) as failed:
        driven.vmm.spawn(driven.spec, (Path("/proc/nowhere/cgroup.procs"),))
    assert failed.value.facts["exit_code"] == 125
    assert driven.vmm.jail_is_fresh(driven.spec)


def test_a_start_that_takes_too_long_is_killed(driven: Rig) -> None:
    driven.vmm.build_jail(driven.spec, None)
    with pytest.raises(Transient) as late:
        driven.impatient(spawn_timeout_s=0.002).spawn(driven.spec, driven.join_files)
    assert late.value.code == "transient/vmm_timeout"
    assert until(lambda: not any(file.read_text() for file in driven.join_files))
    assert driven.vmm.state(REF) is VmmState.GONE


def test_a_vmm_is_found_after_the_program_was_replaced_by_one_of_another_name(
    driven: Rig, tmp_path: Path
) -> None:
    driven.up()
    newer = tmp_path / "firecracker-v9"
    newer.write_bytes(driven.driver()._firecracker.path().read_bytes())
    newer.chmod(0o755)
    link = tmp_path / "firecracker"
    link.symlink_to(newer)
    upgraded = Firecracker(driven.layout, firecracker=link, jailer=driven.driver()._jailer.path())
    assert upgraded.state(REF) is VmmState.RUNNING
    upgraded.kill(REF, timeout_s=5)
    upgraded.build_jail(driven.spec, None)
    upgraded.spawn(driven.spec, driven.join_files)
    assert driven.jail().exec_name == "firecracker-v9"
    assert upgraded.state(REF) is VmmState.IDLE


def test_a_missing_program_names_its_key(driven: Rig, tmp_path: Path) -> None:
    driver = Firecracker(
        driven.layout, firecracker=tmp_path / "nothing", jailer=driven.driver()._jailer.path()
    )
    with pytest.raises(Broken) as broken:
        driver.version()
    assert broken.value.code == "broken/vmm_binary"
    assert "[vmm] firecracker" in broken.value.hint
    assert driver.state(replace(REF)) is VmmState.GONE


def test_another_process_on_the_api_socket_is_not_taken_for_the_vmm(driven: Rig) -> None:
    driven.up()
    with (
        Api(driven.jail().root, pid=os.getpid(), timeout_s=5) as api,
        pytest.raises(Broken) as refused,
    ):
        api.state()
    assert refused.value.code == "broken/vmm_identity"
