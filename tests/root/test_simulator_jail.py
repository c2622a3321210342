"""The jailer's effects on the host: the stand-in's and, if there is one, the real one's."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.simulator import UID, Simulator, eventually
from tests.fixtures.sleeping import counter, counts_beyond

pytestmark = pytest.mark.root


def test_jailed_vmm_has_the_uid_the_name_and_only_its_own_descriptors(jails: Simulator) -> None:
    read, write = os.pipe()
    vmm = jails.start("a", pass_fds=(read, write), env={"SECRET": "x"})
    os.close(read)
    os.close(write)
    proc = Path(f"/proc/{vmm.pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(UID)] * 4
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == 0
    assert (proc / "comm").read_text() == "firecracker\n"
    assert (proc / "environ").read_bytes() == b""
    links = {int(fd.name): str(fd.readlink()) for fd in (proc / "fd").iterdir()}
    assert not [to for fd, to in links.items() if fd > 2 and to.startswith("pipe:")]
    assert (proc / "root").stat().st_ino == vmm.root.stat().st_ino
    assert (proc / "ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()


def test_jail_is_laid_out_as_the_jailer_does_and_no_mount_of_it_is_seen_outside(
    jails: Simulator,
) -> None:
    vmm = jails.start("a", "--resource-limit", "fsize=16777216")
    for folder in (".", "dev", "dev/net", "run"):
        assert stat.S_IMODE((vmm.root / folder).stat().st_mode) == 0o700
        assert (vmm.root / folder).stat().st_uid == UID
    assert (vmm.root / "dev/net/tun").stat().st_rdev == os.makedev(10, 200)
    assert (vmm.root / "dev/kvm").stat().st_uid == UID
    assert (vmm.root / "firecracker").stat().st_uid == UID
    assert (vmm.root / "firecracker.pid").read_text() == str(vmm.pid)
    assert (vmm.root / "firecracker.pid").stat().st_uid == 0
    assert not (vmm.root / "old_root").exists()
    assert str(vmm.root) not in Path("/proc/self/mountinfo").read_text()
    limits = Path(f"/proc/{vmm.pid}/limits").read_text().splitlines()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits}
    assert rows["Max file size"] == ["16777216"] * 2
    assert rows["Max open files"] == ["2048"] * 2


@pytest.mark.parametrize(
    ("cleared", "message"),
    [
        ([], "Failed to create /dev/net/tun via mknod inside the jail: File exists (os error 17)"),
        (["dev"], "Failed to open file /firecracker.pid: File exists (os error 17)"),
    ],
)
def test_a_second_start_in_a_used_jail_fails_on_leftovers(
    jails: Simulator, cleared: list[str], message: str
) -> None:
    vmm = jails.start("a")
    vmm.kill()
    jails.vmms.clear()
    for name in cleared:
        subprocess.run(["rm", "-r", vmm.root / name], check=True)
    assert jails.refused("a").splitlines()[0] == message


def test_stale_api_socket_ends_a_second_vmm_with_code_1(jails: Simulator) -> None:
    (jails.root("a") / "run").mkdir()
    (jails.root("a") / "run/firecracker.socket").touch()
    vmm = jails.spawn("a", stdout=subprocess.PIPE)
    output = vmm.jailer.communicate()[0].decode()
    assert vmm.jailer.returncode == 1
    assert "Failed to open the API socket at: /run/firecracker.socket." in output


def test_jailer_refuses_bad_arguments_with_code_1_and_the_vmm_with_153(
    jails: Simulator,
) -> None:
    assert "Invalid char (_) at position 1" in jails.refused("a_b")
    assert "Found argument 'foo'" in jails.refused("a", "--foo")
    assert "Invalid resource argument: x" in jails.refused("a", "--resource-limit", "x=1")
    jails.root("b")
    done = subprocess.run(jails.command("b", vmm_args=("--foo",)), capture_output=True)
    assert done.returncode == 153


def test_daemon_in_a_pid_namespace_is_its_init_and_ignores_term(simulator: Simulator) -> None:
    vmm = simulator.boot("a", "--daemonize", "--new-pid-ns")
    vmm.jailer.wait()
    status = Path(f"/proc/{vmm.pid}/status").read_text()
    assert f"NSpid:\t{vmm.pid}\t1\n" in status
    assert os.getsid(vmm.pid) != os.getsid(0)
    assert str(Path(f"/proc/{vmm.pid}/fd/1").readlink()) == "/dev/null"
    os.kill(vmm.pid, signal.SIGTERM)
    counts_beyond(vmm, counter(vmm) + 5)
    os.kill(vmm.pid, signal.SIGKILL)
    eventually(vmm.gone, "the VMM is killed")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, -15), (signal.SIGHUP, 156), (signal.SIGXCPU, 154)]
)
def test_signals_outside_a_pid_namespace_end_the_vmm(
    jails: Simulator, number: signal.Signals, code: int
) -> None:
    vmm = jails.start("a")
    os.kill(vmm.pid, number)
    assert vmm.jailer.wait() == code


def test_vmm_joins_the_parent_control_group(jails: Simulator) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    unified = next((row[1] for row in mounts if row[2] == "cgroup2"), None)
    if unified is None:
        pytest.skip("no v2 hierarchy is mounted")
    leaf = Path(unified) / f"hostd-test-{os.getpid()}"
    leaf.mkdir()
    try:
        vmm = jails.start("a", "--cgroup-version", "2", "--parent-cgroup", leaf.name)
        assert (leaf / "cgroup.procs").read_text().split() == [str(vmm.pid)]
        vmm.kill()
        jails.vmms.clear()
    finally:
        leaf.rmdir()


def test_tap_of_another_uid_is_refused(jails: Simulator) -> None:
    subprocess.run(["ip", "netns", "add", f"sim{os.getpid()}"], check=True)
    namespace = f"/run/netns/sim{os.getpid()}"

    def in_it(*words: str) -> None:
        subprocess.run(["ip", "-n", f"sim{os.getpid()}", *words], check=True)

    try:
        in_it("tuntap", "add", "mine", "mode", "tap", "user", str(UID))
        in_it("tuntap", "add", "theirs", "mode", "tap", "user", str(UID + 1))
        vmm = jails.start("a", "--netns", namespace)
        url = "/network-interfaces/eth0"
        fault = vmm.fault("PUT", url, {"iface_id": "eth0", "host_dev_name": "theirs"})
        assert "Operation not permitted (os error 1)" in fault
        vmm.ok("PUT", url, {"iface_id": "eth0", "host_dev_name": "mine"})
        url = "/network-interfaces/eth1"
        fault = vmm.fault("PUT", url, {"iface_id": "eth1", "host_dev_name": "mine"})
        assert "Resource busy (os error 16)" in fault
    finally:
        subprocess.run(["ip", "netns", "del", f"sim{os.getpid()}"], check=True)


def test_a_launched_program_loads_only_the_standard_library() -> None:
    program = (
        "import sys; sys.path.append(sys.argv[1]); import worker.simulator.entry, json; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    root = str(Path(__file__).parents[2])
    shown = subprocess.check_output([sys.executable, "-I", "-S", "-c", program, root], text=True)
    names = json.loads(shown)
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign <= {"worker", "__main__"}
    assert not {"pathlib", "dataclasses", "asyncio"} & set(names)
