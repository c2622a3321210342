"""Reads hostd's tables from the kernel by raw netlink.

libnftables reads every element of every set before it lists anything, even a chain: 5.8 ms with
500 tenants.  The kernel's own dumps of our few rules and sets take a fraction of that.
Constants are those of linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import hashlib
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import inet_aton
from typing import Final

from worker.host.firewall.elements import (
    KEYS,
    Element,
    decoded,
    family,
    gateways,
    key_head,
    key_width,
)
from worker.host.firewall.ruleset import FAMILIES, TABLE
from worker.linux.netlink import ACK, DUMP, NetlinkSocket, attribute, attributes

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETTABLE, _GETCHAIN, _GETRULE, _GETSETELEM, _GETGEN = 1, 4, 7, 13, 16
_GENERIC: Final = struct.Struct("=BBH")  # struct nfgenmsg: family, version, generation
_ATTRIBUTE: Final = struct.Struct("=HH")  # length, type
_FAMILY: Final = {"inet": _GENERIC.pack(1, 0, 0), "bridge": _GENERIC.pack(7, 0, 0)}  # NFPROTO_*
_NAME: Final = TABLE.encode() + bytes(1)
_BY_BRIDGE: Final = tuple(set_ for set_ in KEYS if set_ not in ("guests", "gateways"))
_ELEMENTS: Final = 3  # NFTA_SET_ELEM_LIST_ELEMENTS


class NftReader:
    """Reads the tables in the network namespace of the constructing thread."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(_NETLINK_NETFILTER)

    def close(self) -> None:
        """The socket is closed."""
        self._socket.close()

    def generation(self) -> bytes:
        """The generation of the namespace's ruleset: each commit of any program changes it."""
        replies = self._socket.ask(_SUBSYSTEM | _GETGEN, ACK, _FAMILY["inet"])
        return dict(attributes(replies[0].body[_GENERIC.size :]))[1]

    def base_digest(self) -> bytes | None:
        """A digest of both tables' flags, chains and rules; None if a table is missing.

        It includes the kernel's handles, which are never reused: an equal digest proves that
        nothing changed, a different one proves nothing.
        """
        bodies = []
        for each in FAMILIES:
            try:
                bodies += self._bodies(each, _GETTABLE, ACK)
            except FileNotFoundError:
                return None
            chains = self._bodies(each, _GETCHAIN, DUMP)  # those of the family's every table
            bodies += [body for body in chains if dict(attributes(body)).get(1) == _NAME]
            bodies += self._bodies(each, _GETRULE, DUMP)
        return hashlib.sha256(b"".join(bodies)).digest()

    def any_table(self) -> bool:
        """Whether one of the tables exists."""
        for each in FAMILIES:
            with suppress(FileNotFoundError):
                self._bodies(each, _GETTABLE, ACK)
                return True
        return False

    def owned(self) -> Iterator[Element]:
        """Every element that names a bridge or a TAP."""
        return self.elements(("guests", *_BY_BRIDGE))

    def elements(self, sets: Iterable[str]) -> Iterator[Element]:
        """Every element of the sets, decoded one by one; a missing set has no element."""
        for set_ in sets:
            for body in self._contents(set_):
                for _, item in attributes(dict(attributes(body)).get(_ELEMENTS, b"")):
                    element = decoded(set_, _key(item))
                    if element is not None:
                        yield element

    def tenant(self, bridge: str) -> frozenset[Element]:
        """The elements of the tenant behind a bridge, its guests' apart."""
        found = self.about(key_head(bridge), _BY_BRIDGE)
        there = {
            each
            for each in gateways(found)
            if each in self.about(inet_aton(each.key[0]), ("gateways",))
        }
        return found | there

    def about(self, head: bytes, sets: Iterable[str]) -> frozenset[Element]:
        """The elements whose keys begin with `head`; others are not decoded."""
        found = set()
        for set_ in sets:
            width = key_width(set_)
            # A key is in an NFTA_DATA_VALUE of exactly its width.
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
        name = attribute(2, set_.encode() + bytes(1))
        try:
            return self._bodies(family(set_), _GETSETELEM, DUMP, name)
        except FileNotFoundError:
            return []

    def _bodies(self, family_: str, message: int, flags: int, more: bytes = b"") -> list[bytes]:
        """The kernel's answers without their headers, which contain the generation."""
        body = _FAMILY[family_] + attribute(1, _NAME) + more
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
