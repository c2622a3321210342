"""The jailer's command line, its start inside a control group, and what its exit codes mean."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from worker.host.firecracker.jail.files import LOG
from worker.host.firecracker.jail.jail import Jail
from worker.linux import procfs
from worker.ports import VmSpec

_NO_FILE: Final = 2048
_LEAST_FSIZE_BYTES: Final = 64 << 20  # room for the log and a vmstate

# A constant program: join files up to `--`, then the command, all as positional parameters.  The
# shell writes its own pid before it becomes the jailer, so on cgroup v1 and v2 alike every later
# process starts inside the group.
_JOIN_THEN_EXEC: Final = (
    'while [ "$1" != -- ]; do echo $$ >"$1" || exit 125; shift; done; shift; exec "$@"'
)

# Firecracker's `FcExitCode` (vmm/src/lib.rs), and those of `_JOIN_THEN_EXEC`.
_MEANINGS: Final = {
    0: "the guest shut down",
    1: "an error that its log names",
    2: "an unexpected error",
    125: "the control group could not be joined",
    126: "the jailer is not executable",
    127: "the jailer does not exist",
    148: "a system call that its seccomp filter forbids",
    149: "SIGBUS: a mapped file shrank or the disk failed",
    150: "SIGSEGV",
    151: "SIGXFSZ: a file grew beyond the jail's fsize limit",
    152: "a bad configuration",
    153: "bad arguments",
    154: "SIGXCPU",
    156: "SIGHUP",
    157: "SIGILL",
}


def describe_exit(code: int | None) -> str:
    """An exit code in words; None: it is not known."""
    if code is None:
        return "unknown"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return _MEANINGS.get(code, "not a code of Firecracker's")


def command(spec: VmSpec, jail: Jail, *, jailer: Path, firecracker: Path) -> tuple[str, ...]:
    """The jailer's argument vector.

    The limit of file sizes must be at least the largest disk and the guest's memory: even a sparse
    ftruncate beyond it ends the VMM.  Block devices do not count.
    """
    disks = ((jail.root / drive.id).stat().st_size for drive in spec.drives)
    fsize = max(spec.mem_mib << 20, _LEAST_FSIZE_BYTES, *disks)
    return (
        str(jailer),
        *("--id", spec.ref.instance_id),
        *("--exec-file", str(firecracker)),
        *("--uid", str(spec.uid), "--gid", str(spec.uid)),
        *("--chroot-base-dir", str(jail.base)),
        "--daemonize",
        "--new-pid-ns",
        *("--resource-limit", f"fsize={fsize}", "--resource-limit", f"no-file={_NO_FILE}"),
        "--",
        *("--api-sock", "/run/firecracker.socket"),
        *("--log-path", f"/{LOG}", "--level", "Warn"),
    )


def launch(
    argv: tuple[str, ...], join_files: tuple[Path, ...], log: Path
) -> subprocess.Popen[bytes]:
    """The jailer, started inside the control group.

    With `--daemonize` it ends as soon as it has forked; until then it writes to `log` and holds
    a lock on it, so that `is_launching` sees it even before it has joined its group.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(log, flags, 0o600)
    try:
        # The lock belongs to the open file, which the child shares, not to a process (flock(2)):
        # the kernel releases it when the last of the jailer's forks has closed its streams.
        fcntl.flock(out, fcntl.LOCK_EX)
        # The umask hides what the VMM writes, such as snapshots, from other users.
        return subprocess.Popen(
            ["/bin/sh", "-c", _JOIN_THEN_EXEC, "join", *map(str, join_files), "--", *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={},
            umask=0o077,
        )
    finally:
        os.close(out)


def is_launching(log: Path) -> bool:
    """Whether a jailer that was started with this log has neither become a daemon nor ended."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def members(join_files: tuple[Path, ...]) -> frozenset[int]:
    """Every process in the group, in any hierarchy; empty if the group is gone."""
    pids: set[int] = set()
    for file in join_files:
        try:
            pids.update(map(int, procfs.read(file).split()))
        except OSError:  # removed; ENODEV while the kernel takes it down
            continue
    return frozenset(pids)


def is_member(pid: int, join_files: tuple[Path, ...]) -> bool:
    """Whether the process is in the group in every hierarchy."""
    return all(pid in members((file,)) for file in join_files)
