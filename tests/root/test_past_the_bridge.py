"""Frames that reach the host past the rules about bridges, and do not with hostd's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fixtures import frames
from tests.fixtures.frames import ethernet, udp_packet
from tests.fixtures.netns import ip, nft
from tests.fixtures.tenants import A1, DROPPED_AFTER_S, GUESTS, HOST, Net
from worker.linux.netns import NetworkNamespace

pytestmark = pytest.mark.root

ME = GUESTS[A1].mac
FORGED = b"-forged-"


@pytest.fixture
def net(netns: NetworkNamespace) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack, netns)


def answered_past_the_bridge(net: Net, to: str) -> bool:
    """Whether a frame to that MAC brings a packet to a port of the host's that is not open."""
    port = net.udp(HOST, (HOST, 53))
    net.raw(A1).send(ethernet(to, ME, frames.IPV4, udp_packet(A1, HOST, 53, FORGED)))
    port.settimeout(DROPPED_AFTER_S)
    try:
        return port.recv(64) == FORGED
    except TimeoutError:
        return False
    finally:
        port.close()


# 01:80:c2:00:00:0x is not forwarded: the bridge gives it to its host as come from the port, where
# no rule about the bridge is met; ...:0e even without asking a hook of the bridge's.
@pytest.mark.parametrize("last", [2, 3, 4, 8, 14, 15])
def test_frames_for_the_bridge_itself_do_not_get_past_it(net: Net, last: int) -> None:
    mac = f"01:80:c2:00:00:{last:02x}"
    assert answered_past_the_bridge(net, mac)
    net.protect()
    assert not answered_past_the_bridge(net, mac)


@pytest.mark.parametrize(("table", "last"), [("inet", "03"), ("bridge", "0e")])
def test_such_a_frame_is_dropped_by_either_table(net: Net, table: str, last: str) -> None:
    net.protect()
    nft(f"delete table {table} hostd")
    assert not answered_past_the_bridge(net, f"01:80:c2:00:00:{last}")


def test_a_tap_that_lost_its_bridge_reaches_nothing(net: Net) -> None:
    ip("link set tn5i3 nomaster")
    mac = ip("-brief link show dev tn5i3").split()[2]
    assert answered_past_the_bridge(net, mac)
    net.protect()
    assert not answered_past_the_bridge(net, mac)
