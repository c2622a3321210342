"""Names and addresses on the host, all functions of ids: a retry finds what a killed attempt made.

The forms are those of the system whose place hostd takes, so that its directories stay readable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from enqueue.requests import (
    INSTANCE_PATTERN,
    LABEL_PATTERN,
    InstanceId,
    InstanceRequest,
    PoolId,
    TenantId,
)

FIRST_OFFSET: Final = 3  # .1 is the gateway, .2 the builder
LAST_OFFSET: Final = 254
METADATA_PORT: Final = 8169
MAPPER_PREFIX: Final = "mvm-"
OWNER_PREFIX: Final = "hostd:"
_TAP: Final = re.compile(r"\Atn([0-9]{1,4})i([0-9]{1,3})\Z")
_OWNED: Final = (  # an instance's directory, part by part
    r"\Atenants\Z", LABEL_PATTERN, r"\Apools\Z", LABEL_PATTERN, r"\Ainstances\Z", INSTANCE_PATTERN,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class InstanceRef:
    """One instance; `instance_id` is unique on a host."""

    tenant_id: TenantId
    pool_id: PoolId
    instance_id: InstanceId

    @classmethod
    def of(cls, request: InstanceRequest) -> InstanceRef:
        """The instance a request is about."""
        return cls(request.tenant_id, request.pool_id, request.instance_id)

    def __str__(self) -> str:
        return f"{self.tenant_id}/{self.pool_id}/{self.instance_id}"


def tap_name(tenant_net_id: int, offset: int) -> str:
    """At most 11 bytes: `tn4095i254`."""
    return f"tn{tenant_net_id}i{offset}"


def net_id_of(tap: str) -> int | None:
    """The network that a TAP of that name is in; None if hostd gives no such name."""
    match = _TAP.match(tap)
    return int(match[1]) if match else None


def owner_tag(owner: str) -> str:
    """The alias of a device that is an instance's, or a tenant's: what makes it hostd's."""
    return OWNER_PREFIX + owner


def guest_mac(tenant_net_id: int, offset: int) -> str:
    """A locally administered unicast address, unique on the host; offset 1 is the bridge's."""
    return f"02:fc:{tenant_net_id >> 8:02x}:{tenant_net_id & 255:02x}:00:{offset:02x}"


def guest_ip(subnet: str, offset: int) -> str:
    """The guest's address in its tenant's /24."""
    return str(IPv4Network(subnet).network_address + offset)


def jail_uid(base: int, tenant_net_id: int, offset: int) -> int:
    """Uid and gid of an instance's VMM: one of its own."""
    return base + tenant_net_id * 256 + offset


def mapper_name(ref: InstanceRef) -> str:
    """What the instance's encrypted disk is opened as; an instance id has one form, so no two
    instances share a name."""
    return f"{MAPPER_PREFIX}{ref.tenant_id}-{ref.instance_id}"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie under the state directory (`[paths] state`)."""

    state: Path

    def tenant(self, tenant_id: str) -> Path:
        """The tenant's directory."""
        return self.state / "tenants" / tenant_id

    def pool(self, tenant_id: str, pool_id: str) -> Path:
        """The pool's directory."""
        return self.tenant(tenant_id) / "pools" / pool_id

    def instance(self, ref: InstanceRef) -> Path:
        """The instance's directory."""
        return self.pool(ref.tenant_id, ref.pool_id) / "instances" / ref.instance_id

    def artifacts(self, tenant_id: str, pool_id: str) -> Path:
        """The pool's artifacts: `revisions/<hash>/` and the symlink `current`."""
        return self.pool(tenant_id, pool_id) / "artifacts"

    def disk_key(self, tenant_id: str) -> Path:
        """The key of the tenant's data disks; there is one only where they are encrypted."""
        return self.state / "keys" / f"{tenant_id}.key"

    def volumes(self, ref: InstanceRef) -> Path:
        """The instance's disks."""
        return self.instance(ref) / "volumes"

    def runtime(self, ref: InstanceRef) -> Path:
        """What lives only as long as a VMM."""
        return self.instance(ref) / "runtime"

    def jail_base(self, ref: InstanceRef) -> Path:
        """The jailer's `--chroot-base-dir`."""
        return self.instance(ref) / "jail"

    def images(self, ref: InstanceRef) -> Path:
        """Where sleep images lie: `sleep/` published, `partial-*` in the making."""
        return self.instance(ref) / "snapshots"

    def owner(self, path: Path) -> InstanceRef | None:
        """The instance in whose directory `path` lies; None if in none's."""
        try:
            parts = path.relative_to(self.state).parts
        except ValueError:
            return None
        if len(parts) < len(_OWNED) or any(
            not re.match(form, part) for form, part in zip(_OWNED, parts, strict=False)
        ):
            return None
        return InstanceRef(TenantId(parts[1]), PoolId(parts[3]), InstanceId(parts[5]))
