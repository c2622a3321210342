"""The VMM's log and the jailer's: their last lines, and a limit to the disk that they take.

The jailer's log ends with the jailer: after `--daemonize` its standard streams are /dev/null, and
so are the VMM's, so a guest's serial console is discarded (no `PUT /serial` is needed for that).
No metrics file is configured, so none grows.

The VMM writes its log itself, as a plain file without O_APPEND (`open_file_nonblock` in
Firecracker's vmm/src/utils/mod.rs), and a guest can make it write.  From 1.16.0 on each place in
its code that logs may do so ten times in 5 s; older versions are bounded only by hostd's trimming
and the jail's fsize limit.  Trimming punches a hole before the last bytes: a truncated file would
grow back at once, since the VMM keeps its own offset.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from worker.host.firecracker.jail.files import LOG
from worker.linux import safe_open, sparse

logger = logging.getLogger("hostd")
JAILER_LOG: Final = "jailer.log"
MOST_BYTES: Final = 1 << 20
_KEPT_BYTES: Final = 64 << 10
_TAIL_BYTES: Final = 2048


def tail(runtime: Path) -> str:
    """The last 2 KiB of the jailer's log and the VMM's, in that order."""
    parts = (_tail(runtime / name) for name in (JAILER_LOG, LOG))
    return b"".join(parts)[-_TAIL_BYTES:].replace(b"\0", b"").decode(errors="replace").strip()


def trim_all(state: Path) -> None:
    """Limits each VMM's log below hostd's state directory to one mebibyte of disk."""
    for log in state.glob(f"tenants/*/pools/*/instances/*/runtime/{LOG}"):
        try:
            trim(log)
        except OSError as error:
            logger.warning("cannot trim %s: %s", log, error)


def trim(log: Path) -> None:
    """Limits the log to one mebibyte of disk; its last 64 KiB stay at their offset.

    Raises:
        OSError: the kernel refused.
    """
    with safe_open.opened(log, os.O_RDWR) as fd:
        if fd is None:
            return
        seen = os.fstat(fd)
        if seen.st_blocks * 512 > MOST_BYTES and not sparse.punch(fd, keep_bytes=_KEPT_BYTES):
            os.ftruncate(fd, 0)  # the filesystem cannot punch holes


def _tail(path: Path) -> bytes:
    with safe_open.opened(path, os.O_RDONLY) as fd:
        if fd is None:
            return b""
        return os.pread(fd, _TAIL_BYTES, max(0, os.fstat(fd).st_size - _TAIL_BYTES))
