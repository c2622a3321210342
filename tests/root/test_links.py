"""Bridges and TAPs as only a kernel can show them: damage, strangers, kills, threads."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2.netlink.rtnl import RTM_GETLINK
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests.contract.test_links import BRIDGE, MAC, TAP, TAP_TAG, put_bridge, put_tap, whole_bridge
from tests.fixtures.netns import ip
from worker.errors import Conflict
from worker.host.links.link_message import parsed
from worker.host.links.links import Netlink
from worker.linux.netlink import DUMP, NetlinkSocket
from worker.linux.netns import NetworkNamespace

pytestmark = pytest.mark.root


@pytest.fixture
def kernel(netns: NetworkNamespace) -> Iterator[Netlink]:
    subject = Netlink()
    yield subject
    subject.close()


@pytest.mark.parametrize(
    "damage",
    [
        f"link set {BRIDGE} down",
        f"addr flush dev {BRIDGE}",
        f"addr add 10.240.5.9/24 dev {BRIDGE}",
        f"link set {BRIDGE} address 02:00:00:00:00:09",
    ],
)
def test_a_damaged_bridge_looks_damaged_and_is_mended(kernel: Netlink, damage: str) -> None:
    put_bridge(kernel)
    ip(damage)
    assert kernel.bridge(BRIDGE) != whole_bridge()
    put_bridge(kernel)
    assert kernel.bridge(BRIDGE) == whole_bridge()


def test_a_bridge_that_stopped_forwarding_is_mended(kernel: Netlink) -> None:
    put_bridge(kernel)
    Path(f"/proc/sys/net/ipv4/conf/{BRIDGE}/forwarding").write_text("0")
    seen = kernel.bridge(BRIDGE)
    assert seen is not None
    assert seen.forwarding is False
    put_bridge(kernel)
    assert kernel.bridge(BRIDGE) == whole_bridge()


def test_the_mac_of_a_bridge_stays_when_ports_come(kernel: Netlink) -> None:
    put_bridge(kernel)
    ip("link add low0 address 00:00:5e:00:00:01 type veth peer name low1")
    ip(f"link set low0 master {BRIDGE}")
    assert kernel.bridge(BRIDGE) == whole_bridge()
    assert kernel.ports(BRIDGE) == {"low0"}


def test_a_bridge_in_use_without_an_owner_tag_is_not_an_unfinished_one(kernel: Netlink) -> None:
    ip(f"link add {BRIDGE} address {MAC} type bridge")
    ip("link add low0 type veth peer name low1")
    ip(f"link set low0 master {BRIDGE}")
    with pytest.raises(Conflict):
        put_bridge(kernel)


def test_bridge_and_tap_speak_no_ipv6(kernel: Netlink) -> None:
    if not Path("/proc/sys/net/ipv6").exists():
        pytest.skip("this kernel has no IPv6")
    put_bridge(kernel)
    put_tap(kernel)
    for device in (BRIDGE, TAP):
        assert Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").read_text() == "1\n"
    assert "inet6" not in ip(f"addr show dev {BRIDGE}")


def test_a_tap_with_a_group_is_replaced(kernel: Netlink) -> None:
    put_bridge(kernel)
    ip(f"tuntap add {TAP} mode tap user 11283 group 11283")
    ip(f"link set {TAP} alias {TAP_TAG}")
    assert "group 11283" in ip(f"-details link show {TAP}")
    seen = kernel.tap(TAP)
    assert seen is not None
    assert seen.owner_uid is None
    put_tap(kernel)
    assert "group 11283" not in ip(f"-details link show {TAP}")
    after = kernel.tap(TAP)
    assert after is not None
    assert after.owner_uid == 11_283


def test_a_persistent_tap_without_an_owner_tag_is_not_changed(kernel: Netlink) -> None:
    put_bridge(kernel)
    ip(f"tuntap add {TAP} mode tap user 11283")
    with pytest.raises(Conflict):
        put_tap(kernel)
    with pytest.raises(Conflict):
        kernel.delete(TAP)
    assert TAP in ip("link show")


def test_a_kill_while_a_tap_is_made_leaves_none(netns: NetworkNamespace) -> None:
    program = (
        "import os\n"
        "from worker.linux.tap import new_tap\n"
        f"with new_tap({TAP!r}, owner_uid=1):\n"
        f"    assert os.path.exists('/proc/sys/net/ipv4/conf/{TAP}')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    assert killed.returncode == -9
    assert TAP not in ip("link show")


def test_many_threads_can_share_one_adapter(kernel: Netlink) -> None:
    put_bridge(kernel)
    failures: list[BaseException] = []

    def life(offset: int) -> None:
        name = f"tn5i{offset}"
        try:
            kernel.put_tap(name, owner_uid=offset, bridge=BRIDGE, owner_tag=TAP_TAG)
            tap = kernel.tap(name)
            assert tap is not None
            assert tap.owner_uid == offset
            kernel.delete(name)
        except BaseException as error:  # noqa: BLE001  (told to the test's thread)
            failures.append(error)

    threads = [threading.Thread(target=life, args=(offset,)) for offset in range(3, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert kernel.ports(BRIDGE) == frozenset()


def test_a_dump_larger_than_one_packet_is_complete(kernel: Netlink) -> None:
    put_bridge(kernel)
    for offset in range(3, 83):
        kernel.put_tap(f"tn5i{offset}", owner_uid=offset, bridge=BRIDGE, owner_tag=TAP_TAG)
    assert kernel.ports(BRIDGE) == {f"tn5i{offset}" for offset in range(3, 83)}
    assert len(kernel.owned()) == 81


@pytest.mark.parametrize(
    "setup",
    [
        "",
        f"link set {TAP} down",
        f"link set {TAP} nomaster",
        "link add low0 type veth peer name low1",
    ],
)
def test_a_device_reads_as_pyroute2_reads_it(kernel: Netlink, setup: str) -> None:
    put_bridge(kernel)
    put_tap(kernel)
    if setup:
        ip(setup)
    with NetlinkSocket(socket.NETLINK_ROUTE) as asked:
        replies = [reply.raw for reply in asked.ask(RTM_GETLINK, DUMP, bytes(16))]
    assert {parsed(raw).name for raw in replies} >= {"lo", BRIDGE, TAP}
    for raw in replies:
        link, message = parsed(raw), ifinfmsg(raw)
        message.decode()
        inet = message.get_nested("IFLA_AF_SPEC", "AF_INET")
        assert (link.index, link.up) == (message["index"], bool(message["flags"] & 1))
        assert link.name == message.get_attr("IFLA_IFNAME")
        assert link.mac == (message.get_attr("IFLA_ADDRESS") or "")
        assert link.alias == (message.get_attr("IFLA_IFALIAS") or "")
        assert link.master == message.get_attr("IFLA_MASTER")
        assert link.kind == (message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "")
        assert link.forwarding == bool(inet["forwarding"])
        assert (link.tun is not None) == (link.kind == "tun")
        if link.tun is not None:
            info = dict(message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")["attrs"])
            assert link.tun.type == info["IFLA_TUN_TYPE"]
            assert link.tun.owner == info.get("IFLA_TUN_OWNER")
            assert link.tun.group == info.get("IFLA_TUN_GROUP")
            assert link.tun.persistent == bool(info["IFLA_TUN_PERSIST"])
