"""Network namespaces, kept by a file descriptor and entered by one thread at a time.

Python 3.11 has no `os.setns`; both calls are libc's.  Sockets, devices and processes made by a
thread while it is inside belong to the namespace; new threads start where their maker is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from worker.linux.libc import call

_CLONE_NEWNET: Final = 0x40000000


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class NetworkNamespace:
    """A new network namespace; it ends when it is closed and no process is in it."""

    def __init__(self) -> None:
        before = _current()
        try:
            call("unshare", _CLONE_NEWNET)
            try:
                self._fd = _current()
            finally:
                call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    @property
    def path(self) -> Path:
        """A path for `ip link set ... netns PATH`, good while this process lives."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside; nesting is fine."""
        before = _current()
        try:
            call("setns", self._fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                call("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def close(self) -> None:
        """The descriptor is closed."""
        os.close(self._fd)
