"""What tenants can and cannot reach, with real packets between namespaces.

Every refusal is shown against a control: without the rules the same packet arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures.netns import nft
from tests.fixtures.tenants import (
    A1,
    A2,
    A_GATEWAY,
    B1,
    B_GATEWAY,
    DROPPED_AFTER_S,
    HOST,
    IMDS,
    INTERNET,
    LAN,
    A,
    B,
    Net,
    rules,
)
from worker.linux.netns import NetworkNamespace
from worker.model.names import METADATA_PORT, guest_ip

pytestmark = pytest.mark.root

BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
IPV6 = Path("/proc/sys/net/ipv6/conf")


@pytest.fixture
def net(netns: NetworkNamespace) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack, netns)


REFUSED = [
    (A1, B1, 80),
    (B1, A1, 80),
    (A1, IMDS, 80),
    (A1, A_GATEWAY, 22),
    (A1, B_GATEWAY, METADATA_PORT),
    (A1, B_GATEWAY, 22),
    (A1, HOST, 22),
    (A1, HOST, METADATA_PORT),
    (INTERNET, A1, 80),
    (LAN, A1, 80),
    (INTERNET, A_GATEWAY, METADATA_PORT),
    (LAN, A_GATEWAY, METADATA_PORT),
    (LAN, A_GATEWAY, 22),
]


@pytest.mark.parametrize(("source", "target", "port"), REFUSED)
def test_what_rules_forbid_works_without_them_and_is_dropped_with_them(
    net: Net, source: str, target: str, port: int
) -> None:
    assert net.reaches(source, target, port) == source
    net.protect()
    assert net.is_dropped(source, target, port)


def test_a_guest_reaches_the_internet_as_the_host(net: Net) -> None:
    assert net.reaches(A1, INTERNET) == A1
    net.protect()
    assert net.reaches(A1, INTERNET) == HOST
    assert net.reaches(B1, INTERNET) == HOST


def test_a_guest_reaches_its_own_metadata_port(net: Net) -> None:
    net.protect()
    assert net.reaches(A1, A_GATEWAY, METADATA_PORT) == A1
    assert net.reaches(B1, B_GATEWAY, METADATA_PORT) == B1


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_guests_of_a_tenant_reach_each_other_unmasqueraded(net: Net, bridge_netfilter: str) -> None:
    if BRIDGE_NETFILTER.exists():
        BRIDGE_NETFILTER.write_text(bridge_netfilter)
    elif bridge_netfilter == "1":
        pytest.skip("br_netfilter is not loaded")
    net.protect()
    assert net.reaches(A1, A2) == A1
    assert net.reaches(A2, A1) == A2


def test_the_host_reaches_a_guest(net: Net) -> None:
    net.protect()
    assert net.reaches(HOST, A1) == A_GATEWAY


def test_a_guest_leaves_by_the_named_uplink_only(net: Net) -> None:
    net.protect()
    assert net.is_dropped(A1, LAN)
    net.firewall.put(rules(A, uplink="lan0"))
    assert net.reaches(A1, LAN) == "192.0.2.1"
    assert net.is_dropped(A1, INTERNET)


def test_without_a_named_uplink_a_guest_leaves_anywhere_but_to_tenants(net: Net) -> None:
    net.firewall.put(rules(A, uplink=""))
    net.firewall.put(rules(B, uplink=""))
    net.restrict_guests()
    assert net.reaches(A1, INTERNET) == HOST
    assert net.reaches(A1, LAN) == "192.0.2.1"
    assert net.is_dropped(A1, B1)
    assert net.is_dropped(A1, IMDS)
    assert net.is_dropped(A1, HOST, 22)


def test_a_bridge_without_rules_yet_cannot_be_reached(net: Net) -> None:
    net.firewall.put(rules(A, uplink=""))
    net.restrict_guests()
    assert net.is_dropped(A1, B1)


@pytest.mark.parametrize("spoofed", [guest_ip("10.240.6.0/24", 9), "203.0.113.9"])
def test_a_spoofed_source_is_not_routed_even_if_the_bridge_lets_it_pass(
    net: Net, spoofed: str
) -> None:
    net.also_has(A1, spoofed)
    sink = net.udp(INTERNET, (INTERNET, 9))
    liar, honest = net.udp(A1, (spoofed, 9)), net.udp(A1, (A1, 9))
    liar.sendto(b"spoofed", (INTERNET, 9))
    assert sink.recv(64) == b"spoofed"
    net.protect()
    nft("delete table bridge hostd")
    # Both take the same path in this order, so the second would come second.
    liar.sendto(b"spoofed", (INTERNET, 9))
    honest.sendto(b"honest", (INTERNET, 9))
    assert sink.recv(64) == b"honest"


def with_ipv6(net: Net) -> None:
    if not IPV6.exists():
        pytest.skip("this kernel has no IPv6")
    (IPV6 / "all/forwarding").write_text("1")
    (IPV6 / "br-tenant-5/disable_ipv6").write_text("0")
    for party, device, address, gateway in (
        (HOST, "br-tenant-5", "fd00:5::1", ""),
        (HOST, "up0", "fd00:9::1", ""),
        (A1, "eth0", "fd00:5::3", "fd00:5::1"),
        (A2, "eth0", "fd00:5::4", "fd00:5::1"),
        (INTERNET, "eth0", "fd00:9::2", "fd00:9::1"),
    ):
        net.inside(party, f"addr add {address}/64 dev {device} nodad")
        if gateway:
            net.inside(party, f"-6 route add default via {gateway}")


def test_ipv6_is_not_routed_even_if_the_bridge_lets_it_pass(net: Net) -> None:
    with_ipv6(net)
    guest, sink = net.udp(A1, ("fd00:5::3", 9)), net.udp(INTERNET, ("fd00:9::2", 9))
    friend = net.udp(A2, ("fd00:5::4", 9))
    guest.sendto(b"before", ("fd00:9::2", 9))
    assert sink.recv(64) == b"before"
    net.protect()
    nft("delete table bridge hostd")
    guest.sendto(b"after", ("fd00:9::2", 9))
    guest.sendto(b"friend", ("fd00:5::4", 9))
    assert friend.recv(64) == b"friend"
    sink.settimeout(DROPPED_AFTER_S)
    with pytest.raises(TimeoutError):
        sink.recv(64)


def test_traffic_of_no_tenant_is_not_changed(net: Net) -> None:
    net.protect()
    assert net.reaches(LAN, INTERNET) == LAN
    assert net.reaches(LAN, HOST, 22) == LAN
    assert net.reaches(LAN, HOST, METADATA_PORT) == LAN
    assert net.reaches(INTERNET, HOST, 22) == INTERNET


def test_a_rewrite_by_another_table_does_not_open_the_link_local_network(net: Net) -> None:
    nft(
        "add table ip other; "
        "add chain ip other pre { type nat hook prerouting priority dstnat; }; "
        f"add rule ip other pre ip daddr {IMDS} dnat to {INTERNET}"
    )
    assert net.reaches(A1, IMDS, at=INTERNET) == A1
    net.protect()
    assert net.is_dropped(A1, IMDS)


def test_one_tenants_removal_leaves_the_others_rules(net: Net) -> None:
    net.protect()
    net.firewall.remove(B)
    assert net.reaches(A1, INTERNET) == HOST
    assert net.reaches(A1, A_GATEWAY, METADATA_PORT) == A1
    assert net.is_dropped(A1, B1)
    assert net.is_dropped(A1, IMDS)


def test_an_open_connection_outlives_a_repair_of_the_table(net: Net) -> None:
    net.protect()
    sink, guest = net.udp(INTERNET, (INTERNET, 9)), net.udp(A1, (A1, 9))
    guest.sendto(b"before", (INTERNET, 9))
    _, masqueraded = sink.recvfrom(64)
    nft("add chain inet hostd extra")
    assert not net.firewall.is_current(rules(A))
    net.firewall.put(replace(rules(A), metadata_port=METADATA_PORT))
    sink.sendto(b"answer", masqueraded)
    assert guest.recv(64) == b"answer"
