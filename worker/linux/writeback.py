"""Writes a file back to disk while it is still being written, so its fsync has little to do.

The kernel starts writing dirty pages only after some seconds or some share of the memory
(vm.dirty_* in the kernel's admin-guide); a snapshot takes less, and its paused guest would then
wait for all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from worker.linux import libc

_WRITE: Final = (
    2  # SYNC_FILE_RANGE_WRITE, linux/fs.h: begin to write what is dirty, wait for nothing
)
_PAUSE_S: Final = 0.01


@contextmanager
def writing_back(fd: int) -> Iterator[None]:
    """While inside, dirty pages of the file are written to the disk.

    It makes nothing durable: an fsync must follow, and reports errors of these writes.
    """
    over = threading.Event()

    def push() -> None:
        while not over.wait(_PAUSE_S):
            libc.LIBRARY.sync_file_range(fd, 0, 0, _WRITE)

    pusher = threading.Thread(target=push, name="writeback", daemon=True)
    pusher.start()
    try:
        yield
    finally:
        over.set()
        pusher.join()
