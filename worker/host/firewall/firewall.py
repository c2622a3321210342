"""The packet rules of tenants and guests: `ports.Firewall` over nftables.

The kernel is read by raw netlink and changed by libnftables, one transaction for each change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from enqueue.requests import bridge_name
from worker.errors import Broken
from worker.host.firewall.elements import (
    Element,
    command,
    elements,
    gateways,
    guest_elements,
    key_head,
    taps_head,
)
from worker.host.firewall.lock import FirewallLock
from worker.host.firewall.reader import NftReader
from worker.host.firewall.ruleset import BASE_RULESET, FAMILIES, TABLE
from worker.linux.libnftables import Libnftables, NftError
from worker.linux.netns import NetworkNamespace
from worker.ports import GuestRules, TenantRules

_ATTEMPTS: Final = 3
# `delete` of a table that may be missing: add it first (`destroy` needs Linux 6.3).
_DROP_TABLES: Final = "".join(
    f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in FAMILIES
)
_GUESTS: Final = ("guests",)


class Nft:
    """The tables `hostd` in the network namespace of the constructing thread; thread-safe.

    Only hostd may change these tables: its next change removes what others added.  Other tables are
    never touched.  A packet that hostd accepts can still be dropped by
    another table's chain: no table can overrule another's drop.
    """

    def __init__(self) -> None:
        self._library = Libnftables()
        self._reader = NftReader()
        self._process_lock = FirewallLock()
        self._lock = threading.Lock()
        self._good_generation: bytes | None = None
        self._good_digest: bytes | None = None
        self._canonical: str | None = None

    def close(self) -> None:
        """Its sockets and its lock are closed."""
        self._reader.close()
        self._library.close()
        self._process_lock.close()

    def is_current(self, rules: TenantRules) -> bool:
        with self._lock, _translate_errors("read"):
            return self._base_is_current() and self._reader.tenant(rules.bridge) == elements(rules)

    def put(self, rules: TenantRules) -> None:
        """Rewrites a changed base ruleset, with all its elements.

        Raises:
            Broken: `nftables`, the kernel refused.
        """
        self._put(rules.bridge, elements(rules), lambda: self._reader.tenant(rules.bridge))

    def remove(self, tenant_net_id: int) -> None:
        """Removes the tables with the last tenant.

        Raises:
            Broken: `nftables`, the kernel refused.
        """

        def change() -> str:
            if all(each.tenant_net_id == tenant_net_id for each in self._reader.owned()):
                return _DROP_TABLES if self._reader.any_table() else ""
            tenant = self._reader.tenant(bridge_name(tenant_net_id))
            guests = self._reader.about(taps_head(tenant_net_id), _GUESTS)
            return command("delete", tenant | guests)

        self._transact(change)

    def tenants(self) -> frozenset[int]:
        with _translate_errors("read"):
            ids = {element.tenant_net_id for element in self._reader.owned()}
        return frozenset(net_id for net_id in ids if net_id is not None)

    def guest_is_current(self, rules: GuestRules) -> bool:
        with self._lock, _translate_errors("read"):
            return self._base_is_current() and self._guest(rules.tap) == guest_elements(rules)

    def put_guest(self, rules: GuestRules) -> None:
        """Rewrites a changed base ruleset, as `put` does.

        Raises:
            Broken: `nftables`, the kernel refused.
        """
        self._put(rules.tap, guest_elements(rules), lambda: self._guest(rules.tap))

    def remove_guest(self, tap: str) -> None:
        """Removes the tables with their last element.

        Raises:
            Broken: `nftables`, the kernel refused.
        """

        def change() -> str:
            if all(each.key[0] == tap for each in self._reader.owned()):
                return _DROP_TABLES if self._reader.any_table() else ""
            return command("delete", self._guest(tap))

        self._transact(change)

    def guests(self) -> frozenset[str]:
        with _translate_errors("read"):
            found = [
                each for each in self._reader.elements(_GUESTS) if each.tenant_net_id is not None
            ]
        return frozenset(element.key[0] for element in found)

    def _guest(self, tap: str) -> frozenset[Element]:
        return self._reader.about(key_head(tap), _GUESTS)

    def _put(
        self, device: str, wanted: frozenset[Element], current: Callable[[], frozenset[Element]]
    ) -> None:
        def change() -> str:
            if not self._base_is_current():
                return _DROP_TABLES + BASE_RULESET + command("add", self._others(device) | wanted)
            ours = current()
            return command("delete", ours - wanted) + command("add", wanted - ours)

        self._transact(change)

    def _others(self, device: str) -> frozenset[Element]:
        """The elements of all other tenants and guests, without those that hostd does not write."""
        others = frozenset(
            element
            for element in self._reader.owned()
            if element.tenant_net_id is not None and element.key[0] != device
        )
        return others | gateways(others)

    def _base_is_current(self) -> bool:
        """Whether the kernel has the base ruleset.

        Compared as text once; later by digest, and only if the ruleset's generation changed.
        """
        generation = self._reader.generation()
        if generation != self._good_generation:
            if not self._base_is_unchanged():
                return False
            self._good_generation = generation
        return True

    def _base_is_unchanged(self) -> bool:
        digest = self._reader.base_digest()
        if digest is None:
            return False
        if digest == self._good_digest:
            return True
        listed = _listed(self._library)
        if listed != BASE_RULESET and listed != self._canonical_form():
            return False
        if self._reader.base_digest() != digest:
            return False
        self._good_digest = digest
        return True

    def _canonical_form(self) -> str:
        """The base ruleset as the installed libnftables prints it: versions differ.

        Listed once, in an empty network namespace.
        """
        if self._canonical is None:
            empty = NetworkNamespace()
            try:
                with empty.entered():
                    library = Libnftables()
                    try:
                        library.run(BASE_RULESET)
                        self._canonical = _listed(library)
                    finally:
                        library.close()
            finally:
                empty.close()
        return self._canonical

    def _transact(self, change: Callable[[], str]) -> None:
        """Executes the commands that `change` makes from the kernel's state.

        The lock excludes other processes of hostd.  Another program may still change the tables
        between reading and commit; what then fails is read again and retried.
        """
        with self._lock, self._process_lock.taken():
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    text = change()
                    if text:
                        self._run(text)
                except (NftError, OSError) as error:
                    if attempt == _ATTEMPTS:
                        raise _broken("change", error) from error
                else:
                    return

    def _run(self, text: str) -> None:
        """Commits.  A commit that only changes elements keeps the base ruleset current."""
        before = self._reader.generation()
        self._library.run(text)
        if before != self._good_generation or text.startswith(_DROP_TABLES):
            return
        # Each commit adds one: after another program's commit the base ruleset is read again.
        after = self._reader.generation()
        if int.from_bytes(after, "big") == int.from_bytes(before, "big") + 1:
            self._good_generation = after


def _listed(library: Libnftables) -> str:
    # A run each: libnftables 1.0.6 reads the rules of one table a run.
    return "".join(library.run(f"list table {family} {TABLE}\n") for family in FAMILIES)


@contextmanager
def _translate_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except (NftError, OSError) as error:
        raise _broken(doing, error) from error


def _broken(doing: str, error: Exception) -> Broken:
    return Broken(
        "nftables",
        f"could not {doing} hostd's nftables tables: {error}",
        hint="hostd needs CAP_NET_ADMIN and nf_tables with the families inet and bridge; "
        "see: nft list ruleset",
    )
