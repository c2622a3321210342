"""The base ruleset: hostd's tables with their sets, chains and rules, without any tenant.

Written as `nft list` prints it, to be compared with the kernel's as text.
"""

from __future__ import annotations

from typing import Final

TABLE: Final = "hostd"
FAMILIES: Final = ("inet", "bridge")

# With br_netfilter loaded, packets that a bridge forwards between its own ports pass these chains
# too, with the bridge as iifname and oifname: hence a route from each bridge to itself.
#
# `prerouting` comes before connection tracking and before any DNAT, so it sees what the guest
# sent.  A forwarded packet has an iifname in postrouting since Linux 5.7.
#
# A host answers for each of its addresses on all its devices: hence `gateways`.
#
# A packet whose device is a guest's TAP did not pass a bridge: the TAP has no bridge, or the
# destination is 01:80:c2:00:00:0x, which a bridge hands to its port's own host (br_input.c).
_PACKETS: Final = """\
table inet hostd {
	set bridges {
		type ifname
	}

	set subnets {
		type ifname . ipv4_addr
	}

	set gateways {
		type ipv4_addr
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
		iifname "tn*" jump past-bridge
		iifname @bridges iifname . ip saddr & 255.255.255.0 != @subnets drop
		iifname @bridges ip daddr 169.254.0.0/16 drop
	}

	chain past-bridge {
{from_taps_drop}	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname @bridges goto guest-to-host
		iifname != "lo" ip daddr @gateways drop
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

# Two facts of the kernel.  Of frames to 01:80:c2:00:00:0x the hook `prerouting` sees STP's alone,
# `input` all but LLDP's (...:0e), which `inet hostd` must drop.  A VLAN tag is removed from
# the frame before any hook: `meta protocol`, which `ip saddr` alone would check, is then that of
# the packet inside, while `ether type` is read as if the tag were still there.
#
# Only matches accept: a rule that cannot read a cut-off frame does not match.
_GUESTS: Final = """\
table bridge hostd {
	set guests {
		type ifname . ether_addr . ipv4_addr
	}

	chain prerouting {
		type filter hook prerouting priority filter; policy accept;
		iifname "tn*" goto port
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname "tn*" goto port
	}

	chain port {
{from_taps_goto}	}

	chain from-guest {
		ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop
		ether type ip goto own-packet
		ether type arp goto own-arp
		drop
	}

	chain own-packet {
		iifname . ether saddr . ip saddr @guests accept
		drop
	}

	chain own-arp {
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 \
iifname . ether saddr . arp saddr ip @guests \
iifname . arp saddr ether . arp saddr ip @guests accept
		drop
	}
}
"""


def _from_taps(verdict: str) -> str:
    """Rules for packets from `tn<digit>...`, hostd's names; `tnet0` is not hostd's.

    One rule a digit: nft 1.0.6 can write a set of such wildcards, but not print it.
    """
    return "".join(f'\t\tiifname "tn{digit}*" {verdict}\n' for digit in range(10))


BASE_RULESET: Final = _PACKETS.replace("{from_taps_drop}", _from_taps("drop")) + _GUESTS.replace(
    "{from_taps_goto}", _from_taps("goto from-guest")
)
