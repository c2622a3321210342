"""libnftables, the library behind the `nft` command, by ctypes: text in, text out.

Its C interface (libnftables(3)) has been stable since nftables 0.9.0.  A context keeps a netlink
socket, of the namespace that its maker was in, and a cache of the ruleset.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Final

from worker.errors import StartupError

_LIBRARY: Final = "libnftables.so.1"
_TERSE: Final = 1 << 11  # NFT_CTX_OUTPUT_TERSE: no set elements
_SIGNATURES: Final = {
    "nft_ctx_new": (ctypes.c_void_p, [ctypes.c_uint32]),
    "nft_ctx_free": (None, [ctypes.c_void_p]),
    "nft_ctx_buffer_output": (ctypes.c_int, [ctypes.c_void_p]),
    "nft_ctx_buffer_error": (ctypes.c_int, [ctypes.c_void_p]),
    "nft_ctx_get_output_buffer": (ctypes.c_char_p, [ctypes.c_void_p]),
    "nft_ctx_get_error_buffer": (ctypes.c_char_p, [ctypes.c_void_p]),
    "nft_ctx_output_set_flags": (None, [ctypes.c_void_p, ctypes.c_uint]),
    "nft_run_cmd_from_buffer": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
}
# The library waits for answers with select(2), and glibc ends a process by abort(3) that puts a
# descriptor beyond this into its set.
_FD_SETSIZE: Final = 1024


class NftError(Exception):
    """The kernel or the library refused; no command was executed.  The message says why."""


class Libnftables:
    """A context of the network namespace that the constructing thread is in; thread-safe."""

    def __init__(self) -> None:
        """Loads the library.

        Raises:
            StartupError: it is not installed.
        """
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise StartupError(
                f"{_LIBRARY} cannot be loaded ({error}); on Debian: apt install libnftables1"
            ) from error
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        if _next_descriptor() >= _FD_SETSIZE:
            raise StartupError(f"{_LIBRARY} needs a descriptor below {_FD_SETSIZE}; none is free")
        self._lock = threading.Lock()
        self._context: int | None = self._library.nft_ctx_new(0)
        if self._context is None:
            raise StartupError("libnftables gives no context: out of memory or descriptors")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._library.nft_ctx_output_set_flags(self._context, _TERSE)

    def run(self, text: str) -> str:
        """The output of `nft -t -f`; all commands of `text` are one transaction.

        Raises:
            NftError: refused; nothing was changed.
        """
        with self._lock:
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            # Both buffers are emptied by the call that fetches them.
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if failed:
            raise NftError(errors.decode(errors="replace").strip())
        return str(output.decode())

    def close(self) -> None:
        """Frees the context and its socket."""
        with self._lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None


def _next_descriptor() -> int:
    """The descriptor that the next open(2) returns: the lowest that is free."""
    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return fd
