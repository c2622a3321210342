"""Reads a network device by rtnetlink: the request, and some of the many attributes of the answer.

pyroute2 makes the messages that change something, but reads none here: it decodes every attribute,
also all settings of a bridge and of IPv6, which takes a millisecond, most of the time of a read.
Numbers are those of linux/if_link.h and linux/ip.h.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from typing import Final

from worker.linux.netlink import attribute, attributes

_HEADER: Final = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_NLMSG_HEADER_BYTES: Final = 16
_IFF_UP: Final = 1
_ADDRESS, _IFNAME, _MASTER, _LINKINFO, _IFALIAS, _AF_SPEC, _EXT_MASK = 1, 3, 10, 18, 20, 26, 29
_INFO_KIND, _INFO_DATA = 1, 2
_TUN_OWNER, _TUN_GROUP, _TUN_TYPE, _TUN_PERSIST = 1, 2, 3, 6
_AF_INET, _INET_CONF = 2, 1
_SKIP_STATS: Final = attribute(_EXT_MASK, struct.pack("=I", 8))  # RTEXT_FILTER_SKIP_STATS
_FORWARDING: Final = struct.Struct("=i")  # IPV4_DEVCONF_FORWARDING, the first of the array


@dataclass(frozen=True, slots=True)
class Tun:
    """A device of /dev/net/tun; `type` is 2 for a TAP (IFF_TAP), owner and group are ids if set."""

    type: int
    owner: int | None
    group: int | None
    persistent: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A network device; only a TUN or TAP has `tun`."""

    index: int
    name: str
    kind: str
    up: bool
    mac: str
    alias: str
    master: int | None
    forwarding: bool
    tun: Tun | None = None


def question(*, name: str = "", index: int = 0, master: int = 0) -> bytes:
    """The body of an RTM_GETLINK for devices of that name, index or master, without counters."""
    body = _HEADER.pack(0, 0, index, 0, 0)
    if name:
        body += attribute(_IFNAME, name.encode() + b"\0")
    if master:
        body += attribute(_MASTER, struct.pack("=I", master))
    return body + _SKIP_STATS


def parsed(raw: bytes) -> Link:
    """The device in an RTM_NEWLINK message, header and all."""
    _, _, index, flags, _ = _HEADER.unpack_from(raw, _NLMSG_HEADER_BYTES)
    found = dict(attributes(raw, _NLMSG_HEADER_BYTES + _HEADER.size))
    info = dict(attributes(found.get(_LINKINFO, b"")))
    inet = dict(attributes(dict(attributes(found.get(_AF_SPEC, b""))).get(_AF_INET, b"")))
    kind = _text(info.get(_INFO_KIND, b""))
    return Link(
        index=index,
        name=_text(found[_IFNAME]),
        kind=kind,
        up=bool(flags & _IFF_UP),
        mac=found.get(_ADDRESS, b"").hex(":"),
        alias=_text(found.get(_IFALIAS, b"")),
        master=_number(found.get(_MASTER)),
        forwarding=_INET_CONF in inet and _FORWARDING.unpack_from(inet[_INET_CONF]) != (0,),
        tun=_tun(info.get(_INFO_DATA, b"")) if kind == "tun" else None,
    )


def _tun(data: bytes) -> Tun:
    found = {type_: _number(value) for type_, value in attributes(data)}
    return Tun(
        type=found.get(_TUN_TYPE) or 0,
        owner=found.get(_TUN_OWNER),
        group=found.get(_TUN_GROUP),
        persistent=bool(found.get(_TUN_PERSIST)),
    )


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int.from_bytes(raw, sys.byteorder)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode(errors="replace")
