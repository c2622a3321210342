"""What a guest's own network card can send, and what of it passes its bridge: raw frames.

Each forged frame is shown to arrive without the rules; with them it is dropped, while the honest
frame that the same guest sends after it arrives.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fixtures import frames
from tests.fixtures.frames import EVERYBODY, arp, ethernet, tagged, udp_packet
from tests.fixtures.netns import ip, nft
from tests.fixtures.tenants import (
    A1,
    A2,
    A_GATEWAY,
    B1,
    B_GATEWAY,
    DROPPED_AFTER_S,
    GUESTS,
    HOST,
    INTERNET,
    A,
    Net,
    guest,
    rules,
)
from worker.linux.netns import NetworkNamespace
from worker.model.names import METADATA_PORT, guest_mac

pytestmark = pytest.mark.root

ME, NEIGHBOUR, ROUTER = GUESTS[A1].mac, GUESTS[A2].mac, guest_mac(A, 1)
FORGED, HONEST = b"-forged-", b"-honest-"


@pytest.fixture
def net(netns: NetworkNamespace) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack, netns)


def packet(source: str = A1, *, mac: str = ME, mark: bytes = FORGED) -> bytes:
    return ethernet(EVERYBODY, mac, frames.IPV4, udp_packet(source, A2, 7, mark))


def asking(mac: str = ME, ip: str = A1, *, ethernet_mac: str = ME, **more: int) -> bytes:
    message = arp(frames.REQUEST, mac, ip, target=A_GATEWAY, **more)
    return ethernet(EVERYBODY, ethernet_mac, frames.ARP, message + FORGED)


def claiming(mac: str, ip: str, *, ethernet_mac: str = ME) -> bytes:
    message = arp(frames.REPLY, mac, ip, target=A2)
    return ethernet(EVERYBODY, ethernet_mac, frames.ARP, message + FORGED)


FORGERIES = {
    "a neighbour's MAC": packet(mac=NEIGHBOUR),
    "a free MAC": packet(mac="02:00:00:00:00:77"),
    "a neighbour's address": packet(A2),
    "a free address": packet("10.240.5.77"),
    "the gateway's address": packet(A_GATEWAY),
    "another tenant's address": packet(B1),
    "an address of the internet": packet(INTERNET),
    "no address": packet("0.0.0.0"),  # noqa: S104  (nothing is bound)
    "a neighbour's MAC and address": packet(A2, mac=NEIGHBOUR),
    "ARP: the gateway is here": claiming(ME, A_GATEWAY),
    "ARP: a neighbour is here": claiming(ME, A2),
    "ARP: I am elsewhere": claiming(NEIGHBOUR, A1),
    "ARP: a neighbour says it is there": claiming(NEIGHBOUR, A2),
    "ARP with another's MAC on the frame": claiming(ME, A1, ethernet_mac=NEIGHBOUR),
    "ARP question as a neighbour": asking(NEIGHBOUR, A2, ethernet_mac=NEIGHBOUR),
    "ARP probe": asking(ip="0.0.0.0"),  # noqa: S104  (as above)
    "ARP of other hardware": asking(hardware=6),
    "ARP cut off": ethernet(EVERYBODY, ME, frames.ARP, FORGED),
    "reverse ARP": ethernet(EVERYBODY, ME, frames.RARP, FORGED),
    "IPv6": ethernet(EVERYBODY, ME, frames.IPV6, frames.ipv6_packet(FORGED)),
    "a VLAN tag": tagged(packet(), 5),
    "a priority tag": tagged(packet(), 0),
    "a provider's VLAN tag": tagged(packet(), 5, frames.PROVIDER_VLAN),
    "two VLAN tags": tagged(tagged(packet(), 5), 6),
    "ARP in a VLAN": tagged(claiming(ME, A1), 5),
    "STP": ethernet("01:80:c2:00:00:00", ME, 38, b"\x42\x42\x03" + bytes(30) + FORGED),
    "an unknown EtherType": ethernet(EVERYBODY, ME, 0x88B5, FORGED),
}


def arriving(endpoint: socket.socket) -> Iterator[bytes]:
    """Our frames that come in, up to and with the first honest one."""
    while True:
        frame = endpoint.recv(2048)
        if FORGED in frame:
            yield FORGED
        if HONEST in frame:
            yield HONEST
            return


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_frame_never_passes_the_bridge(net: Net, name: str) -> None:
    card, witness = net.raw(A1), net.raw(A2)

    def sent() -> list[bytes]:
        card.send(FORGERIES[name])
        card.send(packet(mark=HONEST))
        return list(arriving(witness))

    assert sent() == [FORGED, HONEST]
    net.protect()
    assert sent() == [HONEST]


@pytest.mark.parametrize(
    "name", ["the gateway's address", "ARP: the gateway is here", "a VLAN tag", "no address"]
)
def test_a_forged_frame_never_reaches_the_host(net: Net, name: str) -> None:
    card, host = net.raw(A1), net.raw(HOST, "br-tenant-5")

    def sent() -> list[bytes]:
        card.send(FORGERIES[name])
        card.send(packet(mark=HONEST))
        return list(arriving(host))

    assert sent() == [FORGED, HONEST]
    net.protect()
    assert sent() == [HONEST]


def test_a_real_tap_is_limited_too(net: Net) -> None:
    net.links.put_tap("tn5i9", owner_uid=0, bridge="br-tenant-5", owner_tag="hostd:i-00000009")
    witness = net.raw(A2)
    with Path("/dev/net/tun").open("r+b", buffering=0) as tap:
        # TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR (linux/if_tun.h).
        fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"tn5i9", 0x5002))

        def sent() -> list[bytes]:
            for frame in (*FORGERIES.values(), packet(mark=HONEST)):
                tap.write(bytes(10) + frame)  # behind a struct virtio_net_hdr
            return list(arriving(witness))

        assert sent() == [FORGED] * len(FORGERIES) + [HONEST]
        net.protect()
        net.firewall.put_guest(replace(GUESTS[A1], tap="tn5i9"))
        assert sent() == [HONEST]


def test_a_guest_asks_and_answers_arp_as_itself(net: Net) -> None:
    net.protect()
    card, witness = net.raw(A1), net.raw(A2)
    card.send(asking().replace(FORGED, HONEST))
    assert list(arriving(witness)) == [HONEST]
    card.send(claiming(ME, A1).replace(FORGED, HONEST))
    assert list(arriving(witness)) == [HONEST]


def test_a_guest_cannot_claim_the_gateways_address(net: Net) -> None:
    # Without the rules the neighbour believes it and sends all its packets to the liar.
    net.inside(A2, "ntable change name arp_cache dev eth0 locktime 0")
    liar = net.raw(A1)
    lie = ethernet(NEIGHBOUR, ME, frames.ARP, arp(frames.REPLY, ME, A_GATEWAY, target=A2))
    net.protect()
    liar.send(lie)
    assert net.reaches(A2, INTERNET) == HOST
    nft("delete table bridge hostd")
    liar.send(lie)
    assert net.is_dropped(A2, INTERNET)


def test_a_guest_without_rules_passes_nothing(net: Net) -> None:
    net.protect()
    net.firewall.remove_guest("tn5i3")
    card, witness = net.raw(A1), net.raw(A2)
    card.send(packet())
    card.send(claiming(ME, A1))
    net.firewall.put_guest(guest(A, 3))
    card.send(packet(mark=HONEST))
    assert list(arriving(witness)) == [HONEST]


def test_a_guest_is_limited_as_soon_as_its_tenants_rules_are_written(net: Net) -> None:
    net.firewall.put(rules(A))
    assert net.is_dropped(A1, A_GATEWAY, METADATA_PORT)
    net.restrict_guests()
    assert net.reaches(A1, A_GATEWAY, METADATA_PORT) == A1


def test_another_tenants_gateway_is_out_of_reach_by_any_frame(net: Net) -> None:
    card, port = net.raw(B1), net.udp(HOST, (A_GATEWAY, METADATA_PORT))
    own, router = GUESTS[B1].mac, guest_mac(6, 1)

    def sent(source: str) -> None:
        asked = udp_packet(source, A_GATEWAY, METADATA_PORT, FORGED)
        card.send(ethernet(router, own, frames.IPV4, asked))

    sent(A1)
    assert port.recv(64) == FORGED
    net.protect()
    port.settimeout(DROPPED_AFTER_S)
    for source in (A1, A2, A_GATEWAY, B1, B_GATEWAY, HOST):
        sent(source)
    with pytest.raises(TimeoutError):
        port.recv(64)


def test_bridges_of_others_are_left_alone(net: Net) -> None:
    net.protect()
    ip("link add br-other type bridge")
    ip("link set br-other up")
    net.attach("left", "tnet0", "br-other")
    net.attach("right", "other1", "br-other")
    card, witness = net.raw("left"), net.raw("right")
    for forgery in FORGERIES.values():
        card.send(forgery)
    card.send(packet(mark=HONEST))
    assert list(arriving(witness)) == [FORGED] * len(FORGERIES) + [HONEST]
