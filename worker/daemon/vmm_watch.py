"""Watches the pidfd of every VMM, so that a guest that ends by itself is noticed at once.

A pidfd becomes readable when its process ends (pidfd_open(2)), also if it is another's child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable
from typing import Final

from worker.errors import HostdError
from worker.model.names import InstanceRef
from worker.ports import Vmm, VmmProcess

log = logging.getLogger("hostd")

_FOREVER: Final = -1


class VmmWatch:
    """Watches VMMs on its own thread; calls `ended` with the instance and how its VMM ended."""

    def __init__(self, vmm: Vmm, ended: Callable[[InstanceRef, str], None]) -> None:
        self._vmm = vmm
        self._ended = ended
        self._lock = threading.Lock()
        self._held: dict[int, tuple[InstanceRef, VmmProcess]] = {}
        self._poll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def watch(self, ref: InstanceRef) -> None:
        """Watches the instance's VMM from now on, if one lives."""
        try:
            held = self._vmm.open_vmm(ref)
        except HostdError as error:
            log.warning("cannot watch the VMM of %s: %s", ref, error)
            return
        if held is None:
            return
        with self._lock:
            if any(other.pid == held.pid for _, other in self._held.values()):
                held.close()
                return
            self._held[held.fileno()] = (ref, held)
            self._poll.register(held.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Stops watching; the VMMs continue to run."""
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        for _, held in self._held.values():
            held.close()
        self._poll.close()
        os.close(self._stop)

    def _run(self) -> None:
        while True:
            for fd, _ in self._poll.poll(_FOREVER):
                if fd == self._stop:
                    return
                self._notice(fd)

    def _notice(self, fd: int) -> None:
        with self._lock:
            ref, held = self._held.pop(fd)
            self._poll.unregister(fd)
        with contextlib.closing(held):
            how = self._vmm.describe_exit(held.exit_code())
        try:
            self._ended(ref, how)
        except Exception:
            log.exception("cannot reconcile %s, whose VMM has ended", ref)
