"""hostd's table: fixed rules, and a tenant as elements of the sets that they look up.

A packet is judged by a number of rules that does not grow with the tenants, and no tenant has a
rule that another's packets could meet.  That a tenant is data has a second reason: libnftables
reads all chains of the ruleset before it changes or lists one.  With three chains a tenant and 500
tenants a change took 1.5 ms and listing one chain 2.3 ms; adding elements takes 0.03 ms.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from worker.ports import TenantRules

TABLE: Final = "hostd"

# Written as `nft list` prints it, so that what is read can be compared with it as text.
#
# With br_netfilter loaded, packets that a bridge forwards between its own ports pass these chains
# too, with the bridge as iifname and oifname: hence a route from each bridge to itself.
#
# `prerouting` comes before connection tracking and before anybody's DNAT, so it judges what the
# guest wrote.  A forwarded packet has an iifname in postrouting since Linux 5.7.
FRAME: Final = """\
table inet hostd {
	set bridges {
		type ifname
	}

	set subnets {
		type ifname . ipv4_addr
	}

	set services {
		type ifname . ipv4_addr . inet_service
	}

	set routes {
		type ifname . ifname
	}

	set roaming {
		type ifname
	}

	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname @bridges iifname . ip saddr & 255.255.255.0 != @subnets drop
		iifname @bridges ip daddr 169.254.0.0/16 drop
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname @bridges goto guest-to-host
	}

	chain guest-to-host {
		ct state established,related accept
		iifname . ip daddr . tcp dport @services accept
		drop
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname @bridges goto from-guest
		oifname @bridges goto to-guest
	}

	chain from-guest {
		oifname != @bridges meta nfproto ipv6 drop
		iifname . oifname @routes accept
		iifname @roaming oifname != "br-tenant-*" accept
		drop
	}

	chain to-guest {
		ct state established,related accept
		drop
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		iifname @bridges oifname != "br-tenant-*" masquerade
	}
}
"""

# The parts of each set's key, in the kernel's order.
KEYS: Final = {
    "bridges": ("ifname",),
    "subnets": ("ifname", "ipv4"),
    "services": ("ifname", "ipv4", "port"),
    "routes": ("ifname", "ifname"),
    "roaming": ("ifname",),
}
_WIDTH: Final = {"ifname": 16, "ipv4": 4, "port": 4}  # padded to the kernel's 32-bit registers
_DEVICE: Final = re.compile(r"\A[A-Za-z0-9_.:@-]{1,15}\Z")
_TENANT_BRIDGE: Final = re.compile(r"\Abr-tenant-(0|[1-9][0-9]{0,3})\Z")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set; `key[0]` is the bridge that it is about."""

    set: str
    key: tuple[str, ...]

    @property
    def tenant_net_id(self) -> int | None:
        """The tenant it is about; None if it is nothing that hostd writes."""
        match = _TENANT_BRIDGE.match(self.key[0])
        return int(match[1]) if match else None


def elements(rules: TenantRules) -> frozenset[Element]:
    """The tenant as elements."""
    for device in filter(None, (rules.bridge, rules.uplink)):
        if not _DEVICE.match(device):
            raise ValueError(f"{device!r} is no name of a network device")
    bridge = rules.bridge
    wanted = [
        Element("bridges", (bridge,)),
        Element("subnets", (bridge, str(IPv4Network(rules.subnet).network_address))),
        Element("services", (bridge, rules.gateway_ip, str(rules.metadata_port))),
        Element("routes", (bridge, bridge)),
        Element("routes", (bridge, rules.uplink))
        if rules.uplink
        else Element("roaming", (bridge,)),
    ]
    return frozenset(wanted)


def key_width(set_: str) -> int:
    """Bytes of a key of that set in the kernel."""
    return sum(_WIDTH[part] for part in KEYS[set_])


def key_head(bridge: str) -> bytes:
    """How every key about that bridge begins."""
    return bridge.encode().ljust(_WIDTH["ifname"], bytes(1))


def decoded(set_: str, key: bytes) -> Element | None:
    """The element with this key in the kernel; None if it is none of such a set's."""
    if len(key) != key_width(set_):
        return None
    words, offset = [], 0
    for part in KEYS[set_]:
        words.append(_word(part, key[offset : offset + _WIDTH[part]]))
        offset += _WIDTH[part]
    return Element(set_, tuple(words))


def command(verb: str, some: frozenset[Element]) -> str:
    """The commands that add or delete these elements."""
    return "".join(f"{verb} element inet {TABLE} {each.set} {{ {_text(each)} }}\n" for each in some)


def _word(part: str, raw: bytes) -> str:
    match part:
        case "ifname":
            return raw.rstrip(bytes(1)).decode(errors="replace")
        case "ipv4":
            return socket.inet_ntoa(raw)
        case _:
            return str(struct.unpack_from(">H", raw)[0])


def _text(element: Element) -> str:
    words = zip(KEYS[element.set], element.key, strict=True)
    return " . ".join(f'"{word}"' if part == "ifname" else word for part, word in words)
