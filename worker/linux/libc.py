"""Calls of the C library that Python does not have, by ctypes; the only place that loads it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

# Not Final: tests put a library here that counts calls, or fails.
LIBRARY: Any = ctypes.CDLL(None, use_errno=True)
LIBRARY.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)
LIBRARY.mount.argtypes = (*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
LIBRARY.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def call(name: str, *arguments: object, path: Path | None = None) -> None:
    """Calls the function, which returns 0.

    Raises:
        OSError: it returned something else; `path` is what the error names.
    """
    if getattr(LIBRARY, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), None if path is None else str(path))


def limit_arenas(count: int) -> None:
    """Lets malloc make no more arenas: one a thread takes MiBs, of no use under the GIL."""
    if hasattr(LIBRARY, "mallopt"):  # glibc's own: musl has no arenas
        LIBRARY.mallopt(-8, count)  # M_ARENA_MAX, malloc.h


def mount(source: bytes | None, target: Path, kind: bytes | None, flags: int, data: bytes) -> None:
    """Mounts, as mount(2).

    Raises:
        OSError: the kernel refused.
    """
    call("mount", source, os.fsencode(target), kind, flags, data, path=target)
