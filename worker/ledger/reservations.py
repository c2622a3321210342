"""The table `reservations`: who owns each net id, subnet, address, instance id and share of quota.

| kind | key | owner |
|---|---|---|
| `net`, `subnet` | its number, the network | the tenant |
| `offset` | net id / offset of the address | the instance |
| `instance` | the instance's id | tenant / pool |
| `quota` | the instance's id | the tenant |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Literal, NamedTuple

from enqueue.documents import is_up
from enqueue.requests import InstanceId, TenantId, TenantNet, bridge_name
from worker.errors import Conflict
from worker.ledger.database import Database
from worker.model.names import InstanceRef

Kind = Literal["net", "subnet", "offset", "instance", "quota"]


class Usage(NamedTuple):
    """What a tenant's running instances use of its quota."""

    running: int
    vcpus: int
    mem_mib: int


@dataclass(frozen=True, slots=True)
class Reservations:
    """Owners by kind and key."""

    _database: Database

    def reserve(self, kind: Kind, key: str, owner: str, *, vcpus: int = 0, mem_mib: int = 0) -> str:
        """Reserves it if it is free; returns its owner, which may be another."""
        with self._database.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO reservations VALUES (?, ?, ?, ?, ?)",
                (kind, key, owner, vcpus, mem_mib),
            )
            return self.owner(kind, key) or owner

    def reserve_quota(self, ref: InstanceRef, *, vcpus: int, mem_mib: int) -> None:
        """The instance uses so much of its tenant's quota."""
        self._database.write(
            "INSERT OR REPLACE INTO reservations VALUES ('quota', ?, ?, ?, ?)",
            ref.instance_id, ref.tenant_id, vcpus, mem_mib,
        )  # fmt: skip

    def check_owner(self, kind: Kind, key: str, owner: str) -> None:
        """Nobody but `owner` owns it.

        Raises:
            Conflict: `instance_id_taken`, `network_taken`.
        """
        known = self.owner(kind, key)
        if known is None or known == owner:
            return
        if kind == "instance":
            raise Conflict(
                "instance_id_taken",
                f"{key} is {known}'s on this host",
                hint="instance ids are unique on a host: choose another",
            )
        raise Conflict(
            "network_taken",
            f"{kind} {key} is held by tenant {known}",
            hint="choose another, or tear that tenant's network down",
        )

    # ------------------------------------------------------------ read

    def owner(self, kind: Kind, key: str) -> str | None:
        """The owner; None if it is free."""
        row = self._database.row(
            "SELECT owner FROM reservations WHERE kind = ? AND key = ?", kind, key
        )
        return None if row is None else str(row[0])

    def owners(self, kind: Kind) -> Mapping[str, str]:
        """Every owner of that kind, by key."""
        return dict(self._database.rows("SELECT key, owner FROM reservations WHERE kind = ?", kind))

    def network_of(self, tenant: TenantId) -> TenantNet | None:
        """The network that the tenant owns, for when its document cannot say."""
        owned = dict(
            self._database.rows(
                "SELECT kind, key FROM reservations WHERE owner = ? AND kind IN ('net', 'subnet')",
                tenant,
            )
        )
        if len(owned) != 2:
            return None
        net_id, subnet = int(owned["net"]), IPv4Network(owned["subnet"])
        return TenantNet(
            tenant_net_id=net_id,
            ipv4_subnet=str(subnet),
            gateway_ip=str(subnet.network_address + 1),
            bridge_name=bridge_name(net_id),
        )

    def offsets(self, net: TenantNet) -> dict[int, InstanceId]:
        """Which instance owns which address of the network."""
        rows = self._database.rows(
            "SELECT key, owner FROM reservations WHERE kind = 'offset' AND key LIKE ?",
            f"{net.tenant_net_id}/%",
        )
        return {int(key.partition("/")[2]): InstanceId(owner) for key, owner in rows}

    def usage(self, ref: InstanceRef) -> Usage:
        """What the tenant's other instances use of its quota."""
        row = self._database.row(
            "SELECT COUNT(*), COALESCE(SUM(vcpus), 0), COALESCE(SUM(mem_mib), 0)"
            " FROM reservations WHERE kind = 'quota' AND owner = ? AND key != ?",
            ref.tenant_id, ref.instance_id,
        )  # fmt: skip
        return Usage(*row)

    def count_by_kind(self) -> dict[str, int]:
        """How many reservations of each kind there are."""
        return dict(self._database.rows("SELECT kind, COUNT(*) FROM reservations GROUP BY kind"))

    # ------------------------------------------------------------ release

    def release_unneeded(self, ref: InstanceRef, status: str | None) -> None:
        """Frees what an instance of that status needs not: only one that runs needs quota, and a
        destroyed one needs nothing.

        What another tenant's instance of the same id owns is left alone.
        """
        with self._database.transaction() as db:
            if self.owner("instance", ref.instance_id) != f"{ref.tenant_id}/{ref.pool_id}":
                return
            if not is_up(status):
                db.execute(
                    "DELETE FROM reservations WHERE kind = 'quota' AND key = ?", (ref.instance_id,)
                )
            if status == "destroyed":
                db.execute(
                    "DELETE FROM reservations WHERE (kind = 'instance' AND key = ?)"
                    " OR (kind = 'offset' AND owner = ?)",
                    (ref.instance_id, ref.instance_id),
                )

    def release_network(self, net: TenantNet) -> None:
        """Frees the net id and the subnet."""
        self._database.write_many(
            "DELETE FROM reservations WHERE kind = ? AND key = ?",
            [("net", str(net.tenant_net_id)), ("subnet", net.ipv4_subnet)],
        )

    def clear(self) -> None:
        """Frees everything."""
        self._database.write("DELETE FROM reservations")
