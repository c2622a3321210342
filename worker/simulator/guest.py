"""The simulated guest: memory, and a counter in it that a thread increments while it runs.

Page 0 contains the boot's token and the counter.  64 working pages spread over the memory are
written in turn, every fourth round with zeros.  So a memory file that lost or gained holes (a Diff
that was copied, or loaded without its base) does not match `digest`.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import zlib
from contextlib import suppress

PAGE = 4096
MIB = 1 << 20
WORKING_PAGES = 64
HEAD = struct.Struct("<8s16sQ")
MAGIC = b"HOSTDSIM"
BOOTED = b"simulated guest up\n"


class Guest:
    """One guest; `memory` is anonymous, or a private mapping of a memory file."""

    def __init__(self, memory: mmap.mmap, *, counter: int, token: bytes, tick_s: float) -> None:
        self.memory, self.counter, self.token, self.tick_s = memory, counter, token, tick_s
        self.pages = len(memory) // PAGE
        self.dirty: set[int] = set()
        self.all_touched = False
        self.serial = self.log = -1
        self.running = False
        self.changed = threading.Condition()

    @classmethod
    def booted(cls, mem_size_mib: int, tick_s: float) -> Guest:
        """A guest in new memory."""
        guest = cls(
            mmap.mmap(-1, mem_size_mib * MIB), counter=0, token=os.urandom(16), tick_s=tick_s
        )
        guest._write_head()
        return guest

    def start(self) -> None:
        """Starts the vCPU thread, paused until `resume`."""
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self) -> None:
        """Lets the vCPU run."""
        with self.changed:
            self.running = True
            self.changed.notify_all()

    def pause(self) -> None:
        """Pauses the vCPU; when it returns, no write to memory is in progress."""
        with self.changed:
            self.running = False

    def wait_until_running(self) -> None:
        """Returns as soon as the vCPU runs."""
        with self.changed:
            self.changed.wait_for(lambda: self.running)

    def digest(self) -> int:
        """CRC-32 of all pages that the guest ever writes."""
        crc = 0
        for page in (0, *map(self._page, range(WORKING_PAGES))):
            crc = zlib.crc32(self.memory[page * PAGE : (page + 1) * PAGE], crc)
        return crc

    def write_serial(self, text: bytes) -> None:
        """Writes to console and log, where they exist; drops the text if a reader is too slow."""
        for target in (self.serial, self.log):
            if target >= 0:
                with suppress(OSError):
                    os.write(target, text)

    def _run(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.running)
                self._tick()
                counter = self.counter
            self.write_serial(b"%d\n" % counter)
            time.sleep(self.tick_s)

    def _tick(self) -> None:
        self.counter += 1
        self._write_head()
        turn, slot = divmod(self.counter, WORKING_PAGES)
        page = self._page(slot)
        content = bytes(PAGE) if turn % 4 == 3 else struct.pack("<QQ", self.counter, slot) * 256
        self.memory[page * PAGE : (page + 1) * PAGE] = content
        self.dirty.add(page)

    def _write_head(self) -> None:
        HEAD.pack_into(self.memory, 0, MAGIC, self.token, self.counter)
        self.dirty.add(0)

    def _page(self, slot: int) -> int:
        return 1 + slot * ((self.pages - 1) // WORKING_PAGES)
