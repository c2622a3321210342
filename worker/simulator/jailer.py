"""The stand-in jailer: it works in the real one's order, and fails on the same leftovers.

Exit codes are the real jailer's: 0, or 1 for any fault of its own (153 is Firecracker's).
"""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Callable
from typing import NoReturn

from worker.simulator import kernel
from worker.simulator.arguments import BadArguments, instance_id_fault, parsed
from worker.simulator.cgroup import add_groups, join_parent
from worker.simulator.errors import JailerFault, jailer_errors
from worker.simulator.faults import FILE_NAME, Faults, read_faults

MARK = b"hostd simulator launcher"
DEVICES = (("/dev/net/tun", 10, 200), ("/dev/kvm", 10, 232), ("/dev/urandom", 1, 9))
FOLDERS = ("/", "/dev", "/dev/net", "/run")
SINGLE = {
    "id": None,
    "exec-file": None,
    "uid": None,
    "gid": None,
    "chroot-base-dir": "/srv/jailer",
    "netns": None,
    "cgroup-version": "1",
    "parent-cgroup": None,
}
Vmm = Callable[[list[str], Faults], int]


class Jail:
    """The settings of the command line."""

    def __init__(self, argv: list[str]) -> None:
        found, self.extra = parsed(
            argv,
            flags=frozenset({"daemonize", "new-pid-ns", "version", "help"}),
            single=SINGLE,
            multiple=frozenset({"cgroup", "resource-limit"}),
        )
        self.version = "version" in found
        if self.version:
            return
        for name in ("id", "exec-file", "uid", "gid"):
            if name not in found:
                raise BadArguments(f"Argument '{name}' required, but not found.")
        self.id = found["id"][0]
        fault = instance_id_fault(self.id)
        if fault:
            raise JailerFault(f"Invalid instance ID: {fault}")
        self.exec_file = _canonical(found["exec-file"][0])
        self.name = os.path.basename(self.exec_file)
        base = _canonical(found["chroot-base-dir"][0])
        self.root = f"{base}/{self.name}/{self.id}/root"
        self.uid, self.gid = (_number(name, found[name][0]) for name in ("uid", "gid"))
        self.netns = found.get("netns", [None])[0]
        self.daemonize, self.new_pid_ns = "daemonize" in found, "new-pid-ns" in found
        self.cgroup_version = found["cgroup-version"][0]
        self.parent = found.get("parent-cgroup", [self.name])[0]
        self.cgroups = found.get("cgroup", [])
        self.limits = [_limit(text) for text in found.get("resource-limit", [])]


def _canonical(path: str) -> str:
    with jailer_errors(f"Failed to canonicalize path {path}"):
        return os.path.realpath(path, strict=True)


def _number(name: str, text: str) -> int:
    if not text.isdigit() or int(text) >= 1 << 32:
        raise JailerFault(f"Invalid {name}: {text}")
    return int(text)


def _limit(text: str) -> tuple[int, int]:
    name, equals, value = text.partition("=")
    if not equals:
        raise JailerFault(f"Invalid format for resources limits: {text}")
    kinds = {"fsize": resource.RLIMIT_FSIZE, "no-file": resource.RLIMIT_NOFILE}
    if name not in kinds:
        raise JailerFault(f"Invalid resource argument: {name}")
    if not value.isdigit():
        raise JailerFault(
            f"Invalid limit value for resource: {value}: invalid digit found in string"
        )
    return kinds[name], int(value)


def _copy_program(jail: Jail) -> None:
    target = f"{jail.root}/{jail.name}"
    with open(jail.exec_file, "rb") as source:
        content, mode = source.read(), stat.S_IMODE(os.fstat(source.fileno()).st_mode)
    if MARK not in content:
        raise JailerFault(f"Failed to exec into Firecracker: {jail.exec_file} is no simulator")
    with jailer_errors(f"Failed to open {target}"):
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, mode)
    if os.fstat(copy).st_nlink > 1:
        raise JailerFault(f"Detected hard link at: {target}")
    os.fchown(copy, jail.uid, jail.gid)
    os.write(copy, content)
    os.close(copy)


def _enter_root(root: str) -> None:
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount(None, "/", kernel.MS_SLAVE | kernel.MS_REC)
    kernel.mount(root, root, kernel.MS_BIND | kernel.MS_REC)
    os.chdir(root)
    with jailer_errors("Failed to create the jail root directory before pivoting root"):
        os.mkdir("old_root", 0o600)
    kernel.pivot_root(".", "old_root")
    os.chdir("/")
    kernel.detach("old_root")
    os.rmdir("old_root")


def _furnish(jail: Jail, userfault_minor: int | None) -> None:
    for folder in FOLDERS:
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o700)
        os.chown(folder, jail.uid, jail.gid)
    devices = [*DEVICES]
    if userfault_minor is not None:
        devices.append(("/dev/userfaultfd", 10, userfault_minor))
    for path, major, minor in devices:
        try:
            with jailer_errors(f"Failed to create {path} via mknod inside the jail"):
                os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(major, minor))
                os.chown(path, jail.uid, jail.gid)
        except JailerFault as fault:
            if path != "/dev/urandom":
                raise
            print(
                f"Warning! Could not create /dev/urandom device inside jailer: {fault}.", flush=True
            )


def _userfault_minor() -> int | None:
    with open("/proc/misc", encoding="ascii") as misc:
        for line in misc:
            minor, _, name = line.strip().partition(" ")
            if name == "userfaultfd":
                return int(minor)
    return None


def _daemonize(null: int) -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _write_pid(jail: Jail, pid: int) -> None:
    path = f"/{jail.name}.pid"
    with jailer_errors(f"Failed to open file {path}"):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    os.write(file, str(pid).encode())
    os.close(file)


def _become_vmm(jail: Jail, vmm: Vmm, faults: Faults) -> NoReturn:
    """Runs the VMM, where the real jailer calls exec, and exits with its code."""
    os.setgroups([])
    os.setgid(jail.gid)
    os.setuid(jail.uid)
    os.closerange(3, 64)
    os._exit(vmm(["--id", jail.id, *jail.extra], faults))


def _clone_into_pid_namespace(jail: Jail, vmm: Vmm, faults: Faults) -> NoReturn:
    leader = os.getsid(0) == os.getpid()
    kernel.unshare(kernel.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        if leader:
            os.setsid()
        _become_vmm(jail, vmm, faults)
    _write_pid(jail, child)
    os._exit(0)


def run(jail: Jail, vmm: Vmm) -> NoReturn:
    """Builds the jail, runs the VMM in it and exits.

    Raises:
        JailerFault: a step failed; the effects of those before it stay.
        OSError: the kernel refused.
    """
    launchers = os.path.dirname(jail.exec_file)
    faults = read_faults(f"{launchers}/{FILE_NAME}") or Faults()
    if jail.cgroup_version == "2" and not jail.cgroups:
        join_parent(jail.parent)
    os.makedirs(jail.root, exist_ok=True)
    _copy_program(jail)
    if jail.netns:
        with jailer_errors(f"Failed to open file {jail.netns}"):
            kernel.setns(jail.netns, kernel.CLONE_NEWNET)
    for kind, value in [(resource.RLIMIT_NOFILE, 2048), *jail.limits]:
        resource.setrlimit(kind, (value, value))
    add_groups(jail.cgroup_version, jail.parent, jail.id, jail.cgroups)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC) if jail.daemonize else -1
    userfault_minor = _userfault_minor()
    _enter_root(jail.root)
    _furnish(jail, userfault_minor)
    if jail.daemonize:
        _daemonize(null)
    if jail.new_pid_ns:
        _clone_into_pid_namespace(jail, vmm, faults)
    _write_pid(jail, os.getpid())
    _become_vmm(jail, vmm, faults)


def main(argv: list[str], vmm: Vmm, *, version: str) -> int:
    """The exit code of a jailer of this version that did not become a VMM."""
    os.closerange(3, 1 << 16)
    os.environ.clear()
    try:
        jail = Jail(argv)
        if jail.version:
            print(f"Jailer v{version}\n", flush=True)
            return 0
        run(jail, vmm)
    except BadArguments as fault:
        print(f"Failed to parse arguments: {fault}", file=sys.stderr, flush=True)
    except (JailerFault, OSError, ValueError) as fault:
        print(fault, file=sys.stderr, flush=True)
    return 1
