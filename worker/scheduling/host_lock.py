"""What a hostd needs to have to itself before anything else: its directories, and the host."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.config import Config
from worker.errors import StartupError


def make_directories(config: Config) -> None:
    """The state and the runtime directory are there.

    Raises:
        StartupError: one cannot be made.
    """
    for key in ("state", "runtime"):
        path = getattr(config.paths, key)
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise StartupError(f"[paths] {key} = {path}: {error.strerror}") from error


@contextmanager
def host_lock(runtime: Path) -> Iterator[None]:
    """At most one `hostd run` a host; the kernel lets go of it when the process dies.

    Raises:
        StartupError: another hostd runs.
    """
    fd = os.open(runtime / "hostd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode() or "unknown"
        raise StartupError(
            f"hostd runs on this host already (pid {pid}, lock {runtime}/hostd.lock)"
        ) from None
    finally:
        os.close(fd)
