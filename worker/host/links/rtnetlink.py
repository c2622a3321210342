"""rtnetlink requests, in pyroute2's message formats.

Devices are read by `worker.host.links.link_message`.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from worker.host.links.link_message import Link, parsed, question
from worker.linux.netlink import ACK, CREATE, DUMP, EXCL, NetlinkSocket

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_IFF_UP: Final = 1
_HEADER_BYTES: Final = 16


class Rtnl:
    """Devices and IPv4 addresses of one network namespace.  Every call may raise OSError."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(socket.NETLINK_ROUTE)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def find(self, name: str = "", *, index: int = 0) -> Link | None:
        """The device of that name or index."""
        try:
            (reply,) = self._socket.ask(_GETLINK, ACK, question(name=name, index=index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return parsed(reply.raw)

    def ports(self, master: int) -> list[Link]:
        """The devices attached to a bridge; the kernel filters."""
        replies = self._socket.ask(_GETLINK, DUMP, question(master=master))
        return [parsed(reply.raw) for reply in replies]

    def mentioning(self, text: bytes) -> list[Link]:
        """The devices whose description contains these bytes; others are not even decoded."""
        replies = self._socket.ask(_GETLINK, DUMP, question())
        return [parsed(reply.raw) for reply in replies if text in reply.raw]

    def create(self, name: str, kind: str, mac: str) -> None:
        """Makes a device with that MAC.

        Raises:
            OSError: EEXIST, a device has that name.
        """
        info = {"attrs": [("IFLA_INFO_KIND", kind)]}
        values = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_LINKINFO", info)]
        self._socket.ask(_NEWLINK, CREATE | EXCL, _link(0, values))

    def change(self, index: int, *values: tuple[str, Any]) -> None:
        """Sets these attributes of the device."""
        self._socket.ask(_NEWLINK, ACK, _link(index, list(values)))

    def up(self, index: int) -> None:
        """Sets the device up."""
        self._socket.ask(_NEWLINK, ACK, _link(index, [], up=True))

    def delete(self, index: int) -> None:
        """Deletes the device, if it exists; it may still be visible for a moment."""
        try:
            self._socket.ask(_DELLINK, ACK, _link(index, []))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def addresses(self, index: int) -> frozenset[str]:
        """The device's IPv4 addresses, as in `10.240.5.1/24`."""
        replies = self._socket.ask(_GETADDR, DUMP, _address(index, None))
        found = set()
        for reply in replies:
            message = ifaddrmsg(reply.raw)
            message.decode()
            found.add(f"{message.get_attr('IFA_LOCAL')}/{message['prefixlen']}")
        return frozenset(found)

    def add_address(self, index: int, address: str) -> None:
        """Adds the IPv4 address to the device."""
        try:
            self._socket.ask(_NEWADDR, CREATE | EXCL, _address(index, address))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise

    def drop_address(self, index: int, address: str) -> None:
        """Removes the IPv4 address from the device."""
        try:
            self._socket.ask(_DELADDR, ACK, _address(index, address))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise


def _link(index: int, values: list[tuple[str, Any]], *, up: bool = False) -> bytes:
    message = ifinfmsg()
    message["index"] = index
    if up:
        message["flags"], message["change"] = _IFF_UP, _IFF_UP
    message["attrs"] = values
    return _body(message)


def _address(index: int, address: str | None) -> bytes:
    message = ifaddrmsg()
    message["family"], message["index"] = socket.AF_INET, index
    if address is not None:
        ip, _, prefix = address.partition("/")
        message["prefixlen"] = int(prefix)
        message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    return _body(message)


def _body(message: Any) -> bytes:
    message.encode()
    return bytes(message.data[_HEADER_BYTES:])
