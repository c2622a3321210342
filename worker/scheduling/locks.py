"""All flocks: they exclude every other process on the host, such as a second worker or an operator.

Order: tenant's turnstile, tenant, instance.  Everyone passes the turnstile first; an exclusive
waiter holds it while waiting, a sharer releases it once it has the tenant.  Without the turnstile,
sharers that overlap would starve an exclusive waiter for ever.  The kernel releases an flock when
its holder dies, so a kill leaves nothing to clean up.  Lock files are never unlinked: two holders
could then lock two inodes of one name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from worker.errors import StartupError, Transient

FIRST_POLL_S: Final = 0.001
LAST_POLL_S: Final = 0.05
HOST_LOCK: Final = "hostd.lock"


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds an exclusive lock, written into its file for `hostd why`."""

    pid: int
    request_id: str
    since_ms: int


class Locks:
    """The lock files of tenants and instances, under `<runtime>/lock`."""

    def __init__(
        self, directory: Path, *, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._directory = directory
        self._timeout_s = timeout_s
        self._clock = clock
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    @contextmanager
    def instance(
        self, tenant_id: str, instance_id: str, *, request_id: str, exclusive_tenant: bool = False
    ) -> Iterator[float]:
        """Locks the instance, and its tenant shared (or exclusively, to build its network).

        Yields the seconds waited.

        Raises:
            Transient: `lock_timeout`, another process held one of them too long; facts name it.
        """
        began = self._clock()
        with ExitStack() as held:
            self._tenant(held, tenant_id, request_id, exclusive=exclusive_tenant)
            self._take(held, f"instance-{instance_id}", fcntl.LOCK_EX, request_id)
            yield self._clock() - began

    @contextmanager
    def network(self, tenant_id: str, *, request_id: str) -> Iterator[float]:
        """Locks the tenant exclusively.  Yields the seconds waited.

        Raises:
            Transient: `lock_timeout`.
        """
        began = self._clock()
        with ExitStack() as held:
            self._tenant(held, tenant_id, request_id, exclusive=True)
            yield self._clock() - began

    @contextmanager
    def lone(self, instance_id: str, *, request_id: str) -> Iterator[float]:
        """Locks an instance whose tenant is unknown.  Yields the seconds waited.

        Raises:
            Transient: `lock_timeout`.
        """
        began = self._clock()
        with ExitStack() as held:
            self._take(held, f"instance-{instance_id}", fcntl.LOCK_EX, request_id)
            yield self._clock() - began

    def holder(self, name: str) -> Holder | None:
        """The holder written in the lock file `name`, if the lock is held now."""
        path = self._directory / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_holder(fd)
        else:
            return None
        finally:
            os.close(fd)

    def _tenant(self, held: ExitStack, tenant_id: str, request_id: str, *, exclusive: bool) -> None:
        with ExitStack() as turnstile:
            self._take(turnstile, f"turnstile-{tenant_id}", fcntl.LOCK_EX, request_id)
            mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            self._take(held, f"tenant-{tenant_id}", mode, request_id)

    def _take(self, held: ExitStack, name: str, mode: int, request_id: str) -> None:
        fd = self._open(name)
        held.callback(os.close, fd)
        deadline = self._clock() + self._timeout_s
        poll_s = FIRST_POLL_S
        while not _try(fd, mode):
            if self._clock() >= deadline:
                holder = _read_holder(fd)
                raise Transient(
                    "lock_timeout",
                    f"lock {name} was held for more than {self._timeout_s:g} s",
                    hint="see who holds it with `hostd why`, or wait",
                    holder=holder,
                )
            time.sleep(poll_s)
            poll_s = min(2 * poll_s, LAST_POLL_S)
        if mode == fcntl.LOCK_EX:
            holder = Holder(
                pid=os.getpid(), request_id=request_id, since_ms=int(time.time() * 1000)
            )
            os.ftruncate(fd, 0)
            with suppress(OSError):  # only for people to read: the lock holds also on a full disk
                os.pwrite(fd, msgspec.json.encode(holder), 0)

    def _open(self, name: str) -> int:
        path = self._directory / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            hint = "free space on its filesystem"
            raise Transient("no_space", f"no room for {path}", hint=hint) from error


@contextmanager
def host_lock(runtime: Path) -> Iterator[None]:
    """Ensures that at most one `hostd run` runs on a host; released when the process dies.

    Raises:
        StartupError: another hostd runs.
    """
    fd = os.open(runtime / HOST_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _try(fd, fcntl.LOCK_EX):
            pid = os.pread(fd, 20, 0).decode() or "unknown"
            raise StartupError(
                f"hostd runs on this host already (pid {pid}, lock {runtime}/{HOST_LOCK})"
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def hostd_runs(runtime: Path) -> bool:
    """Whether a hostd holds the host's lock, as /proc/locks says (proc_locks(5)).

    Trying the lock instead could make a hostd fail that starts at that moment.
    """
    try:
        inode = (runtime / HOST_LOCK).stat().st_ino
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return False
    return any(
        fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode) for fields in held
    )


def _try(fd: int, mode: int) -> bool:
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except msgspec.DecodeError:
        return None  # a sharer holds it, or the holder has not written itself in yet
