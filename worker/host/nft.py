"""The packet rules of tenants: `ports.Firewall` over nftables.

The kernel is read by raw netlink, changed through libnftables, one transaction a change.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from enqueue.requests import bridge_name
from worker.errors import Broken, Transient
from worker.host.libnftables import Libnftables, NftError
from worker.host.netns import NetworkNamespace
from worker.host.nft_reader import NftReader
from worker.host.nft_rules import FRAME, TABLE, Element, command, elements
from worker.ports import TenantRules

_ATTEMPTS: Final = 3
_LIST: Final = f"list table inet {TABLE}\n"
_TURN_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.002
# `delete` of a table that may be missing: add it first (`destroy` needs Linux 6.3).
_DROP_TABLE: Final = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


class Nft:
    """The table `inet hostd` of the namespace the constructing thread is in; thread-safe.

    The table is hostd's alone: what others put into it is taken out again with the next change.
    Other tables are never touched.  A packet that hostd accepts can still be dropped by another
    table's chain: no table can overrule another's drop.
    """

    def __init__(self) -> None:
        self._library = Libnftables()
        self._reader = NftReader()
        self._lock = threading.Lock()
        # Every process that changes this namespace's table must lock one and the same file, and
        # each namespace has just one inode: its own.
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._good_frame: bytes | None = None
        self._printed: str | None = None

    def close(self) -> None:
        """Its sockets and its lock are closed."""
        self._reader.close()
        self._library.close()
        os.close(self._namespace)

    def stands(self, rules: TenantRules) -> bool:
        """See `ports.Firewall.stands`."""
        with self._lock:
            try:
                if not self._frame_stands():
                    return False
                return self._reader.about(rules.bridge) == elements(rules)
            except OSError as error:
                raise _broken("read", error) from error

    def put(self, rules: TenantRules) -> None:
        """See `ports.Firewall.put`; a damaged frame is made anew with all tenants in it.

        Raises:
            Broken: `nftables`, the kernel refused.
        """
        wanted = elements(rules)

        def change() -> str:
            if not self._frame_stands():
                return _DROP_TABLE + FRAME + command("add", self._others(rules.bridge) | wanted)
            ours = self._reader.about(rules.bridge)
            return command("delete", ours - wanted) + command("add", wanted - ours)

        self._transact(change)

    def remove(self, tenant_net_id: int) -> None:
        """See `ports.Firewall.remove`; the table goes with the last tenant.

        Raises:
            Broken: `nftables`, the kernel refused.
        """
        bridge = bridge_name(tenant_net_id)

        def change() -> str:
            if self._reader.frame_digest() is None:
                return ""
            if all(element.key[0] == bridge for element in self._reader.elements()):
                return _DROP_TABLE
            return command("delete", self._reader.about(bridge))

        self._transact(change)

    def tenants(self) -> frozenset[int]:
        """See `ports.Firewall.tenants`."""
        try:
            ids = {element.tenant_net_id for element in self._reader.elements()}
        except OSError as error:
            raise _broken("read", error) from error
        return frozenset(net_id for net_id in ids if net_id is not None)

    def _as_printed(self) -> str:
        """The frame as the installed libnftables prints it; other versions may word it otherwise.

        Found out in an empty network namespace, once.
        """
        if self._printed is None:
            empty = NetworkNamespace()
            try:
                with empty.entered():
                    library = Libnftables()
                    try:
                        library.run(FRAME)
                        self._printed = library.run(_LIST)
                    finally:
                        library.close()
            finally:
                empty.close()
        return self._printed

    def _others(self, bridge: str) -> frozenset[Element]:
        """The elements of all other tenants; whatever is no tenant's is left behind."""
        return frozenset(
            element
            for element in self._reader.elements()
            if element.tenant_net_id is not None and element.key[0] != bridge
        )

    def _frame_stands(self) -> bool:
        """Whether table, chains and fixed rules are as written.

        Compared as text once; from then on by the digest of what the kernel holds.
        """
        digest = self._reader.frame_digest()
        if digest is None:
            return False
        if digest == self._good_frame:
            return True
        listed = self._library.run(_LIST)
        if listed != FRAME and listed != self._as_printed():
            return False
        if self._reader.frame_digest() != digest:
            return False
        self._good_frame = digest
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # Without this, a second process could make the table anew without the tenant that we add:
        # 1 of 40 was lost in a trial.
        deadline = time.monotonic() + _TURN_WITHIN_S
        while not _locked(self._namespace):
            if time.monotonic() > deadline:
                raise Transient(
                    "firewall_busy",
                    f"another process has been changing table inet {TABLE} for "
                    f"{_TURN_WITHIN_S:g} s",
                    hint="is a hostd stopped in mid-change? see: ps -C hostd -o pid,stat,args",
                )
            time.sleep(_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(self._namespace, fcntl.LOCK_UN)

    def _transact(self, change: Callable[[], str]) -> None:
        """What `change` makes of the kernel's state is done.

        Processes of hostd take turns by the lock.  Another program may still change the table
        between our look and the commit; what then fails is looked at and tried again.
        """
        with self._lock, self._alone():
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    text = change()
                    if text:
                        self._library.run(text)
                except (NftError, OSError) as error:
                    if attempt == _ATTEMPTS:
                        raise _broken("change", error) from error
                else:
                    return


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _broken(doing: str, error: Exception) -> Broken:
    return Broken(
        "nftables",
        f"could not {doing} table inet {TABLE}: {error}",
        hint="hostd needs CAP_NET_ADMIN and nf_tables; see: nft list table inet hostd",
    )
