"""vmstate and memory files.

vmstate: 8 bytes of magic, JSON, and the CRC-32 of both as 8 bytes, little-endian.  The memory file
is the guest's memory, byte by byte; a Diff has holes where no page was written since the last
snapshot.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import time
import zlib
from typing import Any

from worker.simulator.errors import ApiFault, FatalFault, api_errors
from worker.simulator.faults import Faults
from worker.simulator.guest import MIB, PAGE, Guest

MAGIC = b"HSIMSTAT"
MAP_NORESERVE = 0x4000  # linux/mman.h; Python has no name for it
CREATE = "Create snapshot error: "
LOAD = "Load snapshot error: Failed to restore from snapshot: "
STATE = f"{LOAD}Failed to get snapshot state from file: "
PARSE = f"{STATE}Failed to load snapshot state from file: "
MEMORY = f"{LOAD}Failed to load guest memory: Error creating guest memory from file: "


def save_state(path: str, state: dict[str, Any]) -> None:
    """Writes the state and fsyncs the file.

    Raises:
        ApiFault: the file cannot be written.
    """
    body = MAGIC + json.dumps(state).encode()
    with api_errors(f"{CREATE}Cannot perform open on the snapshot backing file"):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        _write_at(file, body + zlib.crc32(body).to_bytes(8, "little"), 0)
        os.fsync(file)
    finally:
        os.close(file)


def read_state(path: str, *, supported: str) -> dict[str, Any]:
    """The state in the file; `supported` is the newest format that this version reads.

    Raises:
        FatalFault: it is unreadable, damaged, or of a format that this version does not read.
    """
    with api_errors(f"{STATE}Failed to open snapshot file", fatal=True), open(path, "rb") as file:
        whole = file.read()
    if len(whole) < 8:
        raise FatalFault(f"{PARSE}IO Error: File too short to contain CRC")
    body, trailer = whole[:-8], whole[-8:]
    if zlib.crc32(body).to_bytes(8, "little") != trailer or not body.startswith(MAGIC):
        raise FatalFault(f"{PARSE}CRC64 validation failed")
    state: dict[str, Any] = json.loads(body[len(MAGIC) :])
    found, known = (text.split(".") for text in (state["format"], supported))
    if found[0] != known[0] or int(found[1]) > int(known[1]):
        raise FatalFault(f"{PARSE}Invalid data version: {state['format']}")
    return state


def save_memory(path: str, guest: Guest, *, diff: bool, tracked: bool, faults: Faults) -> None:
    """Writes the memory, or its pages that changed since the last snapshot, and fsyncs the file.

    Overwrites a file of the right size; truncates any other first.  Unless dirty
    pages are tracked, a Diff contains every page that was ever touched, and a Full touches all.

    Raises:
        ApiFault: the file cannot be written.
    """
    with api_errors(f"{CREATE}Cannot perform open on the memory backing file"):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = len(guest.memory)
        if os.fstat(file).st_size not in (0, size):
            os.ftruncate(file, 0)
        with api_errors(f"{CREATE}Cannot perform set_length on the memory backing file"):
            os.ftruncate(file, size)
        if faults.die_in_snapshot:
            os.ftruncate(file, size // 2)
            raise SystemExit(faults.exit_code)
        if faults.no_space_in_snapshot:
            raise ApiFault(
                f"{CREATE}Cannot write memory file: Cannot dump memory: "
                "No space left on device (os error 28)"
            )
        with api_errors(f"{CREATE}Cannot write memory file: Cannot dump memory"):
            _dump(
                file,
                guest,
                diff=diff and not guest.all_touched,
                delay_s=faults.slow_snapshot_ms_per_mib / 1000,
            )
            os.fsync(file)
    finally:
        os.close(file)
    if tracked:
        guest.dirty.clear()
    elif not diff:
        guest.all_touched = True


def _dump(file: int, guest: Guest, *, diff: bool, delay_s: float) -> None:
    whole = memoryview(guest.memory)
    try:
        if diff:
            for page in sorted(guest.dirty):
                _write_at(file, whole[page * PAGE : (page + 1) * PAGE], page * PAGE)
            return
        for at in range(0, len(whole), MIB):
            _write_at(file, whole[at : at + MIB], at)
            if delay_s:
                time.sleep(delay_s)
    finally:
        whole.release()


def _write_at(file: int, data: bytes | memoryview, at: int) -> None:
    view = memoryview(data)
    while view:
        try:
            done = os.pwrite(file, view, at)
        except OSError as error:
            # Python ignores SIGXFSZ; the real VMM dies of it.
            if error.errno == errno.EFBIG:
                raise SystemExit(151) from error
            raise
        view, at = view[done:], at + done


def load_guest(path: str, state: dict[str, Any], tick_s: float) -> Guest:
    """The guest of the state, in a private mapping of its memory file.

    Raises:
        FatalFault: the file is missing, too short, or not the memory that belongs to the state.
    """
    size = int(state["mem_size_mib"]) * MIB
    with api_errors(f"{MEMORY}Failed to load guest memory", fatal=True):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(file).st_size < size:
                raise FatalFault(
                    f"{MEMORY}Failed to restore guest memory: Total sum of memory "
                    "regions exceeds largest possible file offset"
                )
            # Copy-on-write, as Firecracker's File backend maps it.
            memory = mmap.mmap(file, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE)
        finally:
            os.close(file)
    token = bytes.fromhex(state["token"])
    guest = Guest(memory, counter=state["counter"], token=token, tick_s=tick_s)
    if guest.digest() != state["digest"]:
        # The real VMM does not notice; its guest crashes, or worse, later.
        raise FatalFault(
            f"{MEMORY}simulator: the memory is not that of the state (a Diff without its base?)"
        )
    return guest
