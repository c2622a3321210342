"""Bridges and TAPs in the kernel: `ports.Links` over rtnetlink.

A device is hostd's if its alias (IFLA_IFALIAS) starts with `hostd:`.  The kernel does not set an
alias when it makes a device, so a kill can leave one without:

* A TAP is made persistent only after it has its alias; before, it ends with the process.
* A bridge is made with its final MAC.  A bridge with a tenant's name and MAC that is down and has
  no alias, address or port is such an unfinished one, and counts as hostd's.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from typing import Final

from worker.errors import Conflict, Transient
from worker.host.links.errors import foreign, no_bridge, translate_errors
from worker.host.links.link_message import Link
from worker.host.links.rtnetlink import Rtnl
from worker.linux import sysctl
from worker.linux.tap import new_tap
from worker.model.names import OWNER_PREFIX, guest_mac, parse_bridge
from worker.ports import Bridge, Tap

_GONE_WITHIN_S: Final = 5.0
_POLL_S: Final = 0.002
_QUIET_BRIDGE: Final = {
    "attrs": [
        ("IFLA_INFO_KIND", "bridge"),
        (
            "IFLA_INFO_DATA",
            {"attrs": [("IFLA_BR_STP_STATE", 0), ("IFLA_BR_FORWARD_DELAY", 0)]},
        ),
    ]
}


class Netlink:
    """The devices of the network namespace of the constructing thread; thread-safe.

    TAPs and sysctls are reached through /dev/net/tun and /proc, which follow the calling thread:
    call it from threads of the same namespace.
    """

    def __init__(self) -> None:
        self._rtnl = Rtnl()

    def close(self) -> None:
        """Closes the netlink socket."""
        self._rtnl.close()

    def bridge(self, name: str) -> Bridge | None:
        with translate_errors("read bridge", name):
            link = self._rtnl.find(name)
            if link is None:
                return None
            if link.kind != "bridge":
                raise foreign(link, "is not a bridge")
            return Bridge(
                name=name,
                up=link.up,
                addresses=self._rtnl.addresses(link.index),
                mac=link.mac,
                owner_tag=link.alias,
                forwarding=link.forwarding,
            )

    def put_bridge(self, name: str, *, address: str, mac: str, owner_tag: str) -> None:
        with translate_errors("build bridge", name):
            link = self._rtnl.find(name) or self._new_bridge(name, mac)
            if link.kind != "bridge":
                raise foreign(link, "is not a bridge")
            if link.alias != owner_tag and not self._is_unfinished(link, mac):
                raise foreign(link, f"does not have the owner tag {owner_tag!r}")
            self._rtnl.change(
                link.index,
                ("IFLA_IFALIAS", owner_tag),
                ("IFLA_ADDRESS", mac),
                ("IFLA_LINKINFO", _QUIET_BRIDGE),
            )
            sysctl.set_device("ipv4", name, "forwarding", "1")
            sysctl.set_device("ipv6", name, "disable_ipv6", "1")
            self._set_address(link.index, address)
            self._rtnl.up(link.index)

    def tap(self, name: str) -> Tap | None:
        """`owner_uid` is None if not only the owner can open it."""
        with translate_errors("read tap", name):
            link = self._rtnl.find(name)
            if link is None:
                return None
            if not _is_tap(link):
                raise foreign(link, "is not a TAP")
            master = self._rtnl.find(index=link.master) if link.master else None
            return Tap(
                name=name,
                up=link.up,
                owner_uid=_owner(link),
                bridge=master.name if master else None,
                owner_tag=link.alias,
            )

    def put_tap(self, name: str, *, owner_uid: int, bridge: str, owner_tag: str) -> None:
        with translate_errors("build tap", name):
            master = self._rtnl.find(bridge)
            if master is None or master.kind != "bridge":
                raise no_bridge(name, bridge)
            link = self._rtnl.find(name)
            if link is not None and (not _is_tap(link) or link.alias != owner_tag):
                raise foreign(link, f"is not a TAP with the owner tag {owner_tag!r}")
            if link is not None and _owner(link) != owner_uid:
                self._remove(link)
                link = None
            index = link.index if link else self._new_tap(name, owner_uid, owner_tag)
            sysctl.set_device("ipv6", name, "disable_ipv6", "1")
            self._rtnl.change(index, ("IFLA_MASTER", master.index))
            self._rtnl.up(index)

    def delete(self, name: str) -> None:
        with translate_errors("delete", name):
            link = self._rtnl.find(name)
            if link is None:
                return
            owned = link.alias.startswith(OWNER_PREFIX)
            if not owned and not self._is_unfinished(link, _tenant_mac(name)):
                raise foreign(link, "has no owner tag of hostd")
            self._remove(link)

    def ports(self, bridge: str) -> frozenset[str]:
        with translate_errors("list ports of", bridge):
            master = self._rtnl.find(bridge)
            if master is None or master.kind != "bridge":
                return frozenset()
            return frozenset(port.name for port in self._rtnl.ports(master.index))

    def owned(self) -> Mapping[str, str]:
        with translate_errors("list", "devices"):
            links = self._rtnl.mentioning(OWNER_PREFIX.encode())
            return {link.name: link.alias for link in links if link.alias.startswith(OWNER_PREFIX)}

    def forwarding(self) -> bool:
        return sysctl.forwards_ipv4()

    def enable_forwarding(self) -> None:
        sysctl.forward_ipv4()

    def _new_bridge(self, name: str, mac: str) -> Link:
        try:
            self._rtnl.create(name, "bridge", mac)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
        link = self._rtnl.find(name)
        if link is None:
            raise Transient("device_vanished", f"bridge {name} disappeared while it was made")
        return link

    def _new_tap(self, name: str, owner_uid: int, owner_tag: str) -> int:
        try:
            with new_tap(name, owner_uid=owner_uid):
                link = self._rtnl.find(name)
                if link is None:
                    raise Transient("device_vanished", f"TAP {name} disappeared while it was made")
                self._rtnl.change(link.index, ("IFLA_IFALIAS", owner_tag))
                return link.index
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise Conflict(
                "foreign_device",
                f"{name} was made by another program just now",
                hint=f"remove it: ip link delete {name}",
            ) from error

    def _is_unfinished(self, link: Link, mac: str | None) -> bool:
        return (
            link.kind == "bridge"
            and not link.alias
            and not link.up
            and link.mac == mac
            and not self._rtnl.addresses(link.index)
            and not self._rtnl.ports(link.index)
        )

    def _set_address(self, index: int, address: str) -> None:
        have = self._rtnl.addresses(index)
        for other in have - {address}:
            self._rtnl.drop_address(index, other)
        if address not in have:
            self._rtnl.add_address(index, address)

    def _remove(self, link: Link) -> None:
        self._rtnl.delete(link.index)
        deadline = time.monotonic() + _GONE_WITHIN_S
        while self._rtnl.find(link.name) is not None:
            if time.monotonic() > deadline:
                raise Transient(
                    "device_busy",
                    f"{link.name} still exists {_GONE_WITHIN_S:g} s after its removal",
                    hint="the kernel waits until it is unused; see dmesg",
                )
            time.sleep(_POLL_S)


def _is_tap(link: Link) -> bool:
    return link.tun is not None and link.tun.type == 2  # IFF_TAP


def _owner(link: Link) -> int | None:
    """The uid that may open the TAP; None if it has a group, or is not persistent."""
    tun = link.tun
    return tun.owner if tun is not None and tun.persistent and tun.group is None else None


def _tenant_mac(name: str) -> str | None:
    net_id = parse_bridge(name)
    return None if net_id is None else guest_mac(net_id, 1)
