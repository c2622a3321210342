"""hostd's table as the kernel holds it, read by raw netlink.

libnftables reads every element of every set before it lists anything, even a chain: 5.8 ms with
500 tenants.  The kernel's own dumps of our few rules and sets take a fraction of that.
Constants are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Iterator
from typing import Final

from worker.host.netlink_socket import ACK, DUMP, NetlinkSocket, attribute, attributes
from worker.host.nft_rules import KEYS, TABLE, Element, decoded, key_head, key_width

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETTABLE, _GETCHAIN, _GETRULE, _GETSETELEM = 1, 4, 7, 13
_GENERIC: Final = struct.Struct("=BBH")  # struct nfgenmsg: family, version, generation
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_INET: Final = _GENERIC.pack(1, 0, 0)  # NFPROTO_INET
_NAME: Final = TABLE.encode() + bytes(1)
_ELEMENTS: Final = 3  # NFTA_SET_ELEM_LIST_ELEMENTS


class NftReader:
    """Reads the table in the network namespace that the constructing thread is in."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_NETFILTER)

    def close(self) -> None:
        """The socket is closed."""
        self._socket.close()

    def frame_digest(self) -> bytes | None:
        """A digest of the table's flags, chains and rules; None without a table.

        It covers the kernel's handles too, which are never given twice: the same digest means
        that nobody touched them, another one says nothing.
        """
        try:
            bodies = self._bodies(_GETTABLE, ACK)
        except FileNotFoundError:
            return None
        chains = self._bodies(_GETCHAIN, DUMP)  # the kernel gives those of all inet tables
        bodies += [body for body in chains if dict(attributes(body)).get(1) == _NAME]
        bodies += self._bodies(_GETRULE, DUMP)
        return hashlib.sha256(b"".join(bodies)).digest()

    def elements(self) -> Iterator[Element]:
        """Every element of hostd's sets, decoded one by one; none of a set that is missing."""
        for set_ in KEYS:
            for body in self._contents(set_):
                for _, item in attributes(dict(attributes(body)).get(_ELEMENTS, b"")):
                    element = decoded(set_, _key(item))
                    if element is not None:
                        yield element

    def about(self, bridge: str) -> frozenset[Element]:
        """The elements of one bridge: found by their bytes, the others are not decoded."""
        found = set()
        for set_ in KEYS:
            head, width = key_head(bridge), key_width(set_)
            # A key stands in an NFTA_DATA_VALUE of just its width.
            start = _ATTRIBUTE.pack(_ATTRIBUTE.size + width, 1) + head
            for body in self._contents(set_):
                at = body.find(start)
                while at >= 0:
                    key = body[at + _ATTRIBUTE.size : at + _ATTRIBUTE.size + width]
                    element = decoded(set_, key)
                    if element is not None:
                        found.add(element)
                    at = body.find(start, at + _ATTRIBUTE.size + width)
        return frozenset(found)

    def _contents(self, set_: str) -> list[bytes]:
        try:
            return self._bodies(_GETSETELEM, DUMP, attribute(2, set_.encode() + bytes(1)))
        except FileNotFoundError:
            return []

    def _bodies(self, message: int, flags: int, more: bytes = b"") -> list[bytes]:
        """What the kernel answers, without the headers: they count generations of the ruleset."""
        body = _INET + attribute(1, _NAME) + more
        try:
            replies = self._socket.ask(_SUBSYSTEM | message, flags, body)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise FileNotFoundError from error
            raise
        return [reply.body[_GENERIC.size :] for reply in replies]


def _key(item: bytes) -> bytes:
    """NFTA_SET_ELEM_KEY's NFTA_DATA_VALUE."""
    return dict(attributes(dict(attributes(item)).get(1, b""))).get(1, b"")
