"""A file goes to the disk while somebody else still writes it, so that its fsync finds little left.

A kernel begins to write dirty pages only after some seconds or some share of the memory
(vm.dirty_* in the kernel's admin-guide); a snapshot is written in less, and then waits for all of
it at once while its guest stands still.
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
    """Within, the pages that anybody dirties in the file are sent to the disk.

    It makes nothing durable: an fsync must follow, and reports what went wrong here.
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
