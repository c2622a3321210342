"""A blocking netlink socket: one request at a time, every reply awaited, errors as OSError.

pyroute2's `IPRoute` runs an event loop for each call and opens a socket for each thread, in the
namespace of that thread.  Here many threads ask one namespace, cheaply, by one socket; pyroute2 is
used only for message formats.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import threading
from typing import Final, NamedTuple, Self

REQUEST: Final = 0x01
ACK: Final = 0x04
DUMP: Final = 0x300
EXCL: Final = 0x200
CREATE: Final = 0x400

_DUMP_INTERRUPTED: Final = 0x10
_ACK_TLVS: Final = 0x200
_ERROR: Final = 2
_DONE: Final = 3
_SOL_NETLINK: Final = 270
_CAP_ACK: Final = 10
_EXT_ACK: Final = 11
_STRICT_CHECK: Final = 12
_ATTEMPTS: Final = 20
_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port (struct nlmsghdr)
_TIMEVAL: Final = struct.Struct("@ll")  # struct timeval: seconds, microseconds
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type (struct nlattr)
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class Reply(NamedTuple):
    """One message of an answer: its type, and its bytes with and without the header."""

    type: int
    raw: bytes
    body: bytes


def attribute(type_: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, type_) + value + bytes(-length % 4)


def attributes(raw: bytes, start: int = 0) -> list[tuple[int, bytes]]:
    """The attributes in `raw` from `start` on, in order."""
    found = []
    while start + _ATTRIBUTE.size <= len(raw):
        length, type_ = _ATTRIBUTE.unpack_from(raw, start)
        if length < _ATTRIBUTE.size:
            break
        found.append((type_ & _TYPE_MASK, raw[start + _ATTRIBUTE.size : start + length]))
        start += length + (-length % 4)
    return found


class _Interrupted(Exception):
    """The dumped objects changed meanwhile (NLM_F_DUMP_INTR): the answer may be incomplete."""


class NetlinkSocket:
    """A socket of the network namespace that the constructing thread is in; thread-safe."""

    def __init__(self, protocol: int, *, timeout_s: float = 10.0) -> None:
        self._lock = threading.Lock()
        self._sequence = itertools.count(1)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        # The kernel's own timeout: with Python's, each answer would cost a poll(2) before it.
        timeout = _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT_CHECK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

    def ask(self, type_: int, flags: int, body: bytes) -> list[Reply]:
        """The kernel's answer; an interrupted dump is requested again.

        Raises:
            OSError: the kernel's errno, with its message if it sends one.
            TimeoutError: no answer in time.
        """
        for _ in range(_ATTEMPTS):
            try:
                with self._lock:
                    return self._ask(type_, flags, body)
            except _Interrupted:
                continue
        raise TimeoutError("a netlink dump was interrupted by changes again and again")

    def _ask(self, type_: int, flags: int, body: bytes) -> list[Reply]:
        sequence = next(self._sequence) & 0xFFFFFFFF
        flags |= REQUEST if flags & DUMP == DUMP else REQUEST | ACK
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, type_, flags, sequence, 0) + body)
        replies: list[Reply] = []
        interrupted = False
        while True:
            try:
                packet = self._socket.recv(1 << 16)
            except BlockingIOError as error:
                raise TimeoutError("netlink did not answer in time") from error
            offset = 0
            while offset < len(packet):
                length, kind, seen, answers, _ = _HEADER.unpack_from(packet, offset)
                raw = packet[offset : offset + length]
                offset += length + (-length % 4)
                if answers != sequence:  # a late reply to a request that had timed out
                    continue
                interrupted = interrupted or bool(seen & _DUMP_INTERRUPTED)
                if kind in (_ERROR, _DONE):
                    _check(raw, seen)
                    if interrupted:
                        raise _Interrupted
                    return replies
                replies.append(Reply(kind, raw, raw[_HEADER.size :]))

    def close(self) -> None:
        """The socket is closed."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(raw: bytes, flags: int) -> None:
    """Raises the error in the end of an answer, if any; NLMSG_DONE carries an errno as well."""
    (code,) = struct.unpack_from("=i", raw, _HEADER.size) if len(raw) >= 20 else (0,)
    if code == 0:
        return
    words = os.strerror(-code)
    if flags & _ACK_TLVS:
        # CAP_ACK: of the request only the header is echoed, then come the attributes.
        extra = dict(attributes(raw, _HEADER.size + 4 + _HEADER.size))
        if 1 in extra:  # NLMSGERR_ATTR_MSG
            words = f"{words}: {extra[1].rstrip(bytes(1)).decode(errors='replace')}"
    raise OSError(-code, words)
