"""Tells messages that only read from those that change the receiver, by their first bytes.

Reads are not effects: netlink's GET messages, HTTP's GET, Redis commands that only read.
"""

from __future__ import annotations

import re
import struct
from typing import Final

_HEADER: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port (struct nlmsghdr)
_NFNL_SUBSYS_NFTABLES: Final = 10
NFT_GETS: Final = frozenset({1, 4, 7, 10, 13, 16, 19, 23})  # NFT_MSG_GET*, nf_tables.h
_RTM_BASE: Final = 16
_LINE: Final = re.compile(rb"[A-Z0-9_]+\Z")
_READS: Final = frozenset(
    [
        "AUTH",
        "CLIENT",
        "EXISTS",
        "GET",
        "HELLO",
        "HGET",
        "HGETALL",
        "HMGET",
        "INFO",
        "LLEN",
        "LRANGE",
        "PING",
        "SELECT",
        "SMEMBERS",
        "TTL",
        "TYPE",
        "ZCARD",
        "ZCOUNT",
        "ZRANGE",
        "ZRANGEBYSCORE",
        "ZSCORE",
    ]
)


def netlink(data: bytes) -> tuple[str, bool]:
    """The message's name, and whether it only reads."""
    if len(data) < _HEADER.size:
        return "netlink", False
    _, kind, *_ = _HEADER.unpack_from(data)
    if kind >> 8 == _NFNL_SUBSYS_NFTABLES:
        return f"nftables {kind & 0xFF}", kind & 0xFF in NFT_GETS
    return f"netlink {kind}", kind >= _RTM_BASE and kind % 4 == 2  # each family: NEW DEL GET SET


def stream(data: bytes) -> tuple[str, bool]:
    """The name of a message on a stream socket, and whether it only reads."""
    if data.startswith(b"*"):
        names = commands(data)
        return f"redis {' '.join(names)}"[:120], bool(names) and set(names) <= _READS
    line = data.split(b"\r\n", 1)[0][:80].decode("latin-1")
    if line.endswith(" HTTP/1.1"):
        line = line.removesuffix(" HTTP/1.1")
        return f"http {line}", line.startswith("GET ")
    return f"sent {len(data)} bytes", False


def commands(data: bytes) -> list[str]:
    """The names of the Redis commands in `data` (RESP arrays of bulk strings), in order."""
    found, at = [], 0
    while data[at : at + 1] == b"*":
        end = data.index(b"\r\n", at)
        count, at, first = int(data[at + 1 : end]), end + 2, b""
        for number in range(count):
            end = data.index(b"\r\n", at)
            size = int(data[at + 1 : end])
            if number == 0:
                first = data[end + 2 : end + 2 + size]
            at = end + 2 + size + 2
        found.append(first.decode() if _LINE.match(first) else "?")
    return found
