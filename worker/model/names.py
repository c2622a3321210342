"""Names and addresses on the host, all functions of ids: a retry finds what a killed attempt made.

The forms are those of the system that hostd replaces, whose directories must stay readable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from enqueue.requests import (
    InstanceId,
    InstanceRequest,
    PoolId,
    TenantId,
    bridge_name,
)

FIRST_OFFSET: Final = 3  # .1 is the gateway, .2 the builder
LAST_OFFSET: Final = 254
METADATA_PORT: Final = 8169
MAPPER_PREFIX: Final = "mvm-"
OWNER_PREFIX: Final = "hostd:"
_NUMBER: Final = "(0|[1-9][0-9]{0,3})"
_TAP: Final = re.compile(rf"\Atn{_NUMBER}i{_NUMBER}\Z")
_BRIDGE: Final = re.compile(rf"\A{re.escape(bridge_name(0)[:-1])}{_NUMBER}\Z")


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


def parse_tap(name: str) -> tuple[int, int] | None:
    """The net id and the offset that `tap_name` was given; None if it gives no such name."""
    match = _TAP.match(name)
    return (int(match[1]), int(match[2])) if match else None


def parse_bridge(name: str) -> int | None:
    """The net id that `bridge_name` was given; None if it gives no such name."""
    match = _BRIDGE.match(name)
    return int(match[1]) if match else None


def net_id_of(tap: str) -> int | None:
    """The net id of a TAP's name; None if `tap_name` gives no such name."""
    parsed = parse_tap(tap)
    return parsed[0] if parsed else None


def owner_tag(owner: str) -> str:
    """The alias of a device of an instance or a tenant; only hostd's own devices have one."""
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
    """The device name of the instance's encrypted disk; instance ids have one form, so no two
    instances share a name."""
    return f"{MAPPER_PREFIX}{ref.tenant_id}-{ref.instance_id}"
