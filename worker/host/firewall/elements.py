"""Tenants and guests as elements of the sets that the rules in `ruleset` look up.

The number of rules for a packet does not grow with the tenants, and no rule of one tenant can match
another's packets.  There is a second reason to make tenants data: libnftables reads all chains of
the ruleset before it changes or lists one.  With three chains a tenant and 500
tenants a change took 1.5 ms and listing one chain 2.3 ms; adding elements takes 0.03 ms.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from worker.host.firewall.ruleset import TABLE
from worker.model.names import net_id_of, parse_bridge, tap_name
from worker.ports import GuestRules, TenantRules

# The parts of each set's key, in the kernel's order.
KEYS: Final = {
    "guests": ("ifname", "mac", "ipv4"),
    "bridges": ("ifname",),
    "subnets": ("ifname", "ipv4"),
    "services": ("ifname", "ipv4", "port"),
    "gateways": ("ipv4",),
    "routes": ("ifname", "ifname"),
    "roaming": ("ifname",),
}
_WIDTH: Final = {
    "ifname": 16,
    "mac": 8,
    "ipv4": 4,
    "port": 4,
}  # padded to the kernel's 32-bit registers
_DEVICE: Final = re.compile(r"\A[A-Za-z0-9_.:@-]{1,15}\Z")
_MAC: Final = re.compile(r"\A[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set; `key[0]` is its bridge or TAP.

    In `gateways` it is the address, of the tenant that has a service there.
    """

    set: str
    key: tuple[str, ...]

    @property
    def tenant_net_id(self) -> int | None:
        """Its tenant; None if hostd does not write such an element."""
        return net_id_of(self.key[0]) if self.set == "guests" else parse_bridge(self.key[0])


def elements(rules: TenantRules) -> frozenset[Element]:
    """The tenant as elements."""
    for device in filter(None, (rules.bridge, rules.uplink)):
        if not _DEVICE.match(device):
            raise ValueError(f"{device!r} is not a valid name of a network device")
    bridge = rules.bridge
    wanted = [
        Element("bridges", (bridge,)),
        Element("subnets", (bridge, str(IPv4Network(rules.subnet).network_address))),
        Element("services", (bridge, rules.gateway_ip, str(rules.metadata_port))),
        Element("gateways", (rules.gateway_ip,)),
        Element("routes", (bridge, bridge)),
        Element("routes", (bridge, rules.uplink))
        if rules.uplink
        else Element("roaming", (bridge,)),
    ]
    return frozenset(wanted)


def guest_elements(rules: GuestRules) -> frozenset[Element]:
    """The guest as elements."""
    if net_id_of(rules.tap) is None:
        raise ValueError(f"{rules.tap!r} is not a valid name of a guest's TAP")
    if not _MAC.match(rules.mac):
        raise ValueError(f"{rules.mac!r} is not a valid MAC address")
    return frozenset({Element("guests", (rules.tap, rules.mac, str(IPv4Address(rules.ip))))})


def gateways(some: Iterable[Element]) -> frozenset[Element]:
    """The elements of `gateways` that belong to these."""
    return frozenset(Element("gateways", (each.key[1],)) for each in some if each.set == "services")


def family(set_: str) -> str:
    """The family of the table that the set is in."""
    return "bridge" if set_ == "guests" else "inet"


def key_width(set_: str) -> int:
    """Bytes of a key of that set in the kernel."""
    return sum(_WIDTH[part] for part in KEYS[set_])


def key_head(device: str) -> bytes:
    """The first bytes of every key of that bridge or TAP."""
    return device.encode().ljust(_WIDTH["ifname"], bytes(1))


def taps_head(tenant_net_id: int) -> bytes:
    """The first bytes of every key of a TAP of that tenant."""
    return tap_name(tenant_net_id, 0)[:-1].encode()


def decoded(set_: str, key: bytes) -> Element | None:
    """The element with this key in the kernel; None if it is not a valid key of the set."""
    if len(key) != key_width(set_):
        return None
    words, offset = [], 0
    for part in KEYS[set_]:
        words.append(_word(part, key[offset : offset + _WIDTH[part]]))
        offset += _WIDTH[part]
    return Element(set_, tuple(words))


def command(verb: str, some: frozenset[Element]) -> str:
    """The commands that add or delete these elements."""
    return "".join(
        f"{verb} element {family(each.set)} {TABLE} {each.set} {{ {_text(each)} }}\n"
        for each in some
    )


def _word(part: str, raw: bytes) -> str:
    match part:
        case "ifname":
            return raw.rstrip(bytes(1)).decode(errors="replace")
        case "ipv4":
            return socket.inet_ntoa(raw)
        case "mac":
            return raw[:6].hex(":")
        case _:
            return str(struct.unpack_from(">H", raw)[0])


def _text(element: Element) -> str:
    words = zip(KEYS[element.set], element.key, strict=True)
    return " . ".join(f'"{word}"' if part == "ifname" else word for part, word in words)
