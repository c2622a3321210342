"""Every request a host accepts: one frozen struct per operation.

The union `Request` has every operation of hostd.  Each is a goal, not a command: if the host is
already in that state, the request succeeds and changes nothing.  Add a variant here and the type
checker names every place that must handle it.

`command` and `summary` name and describe an operation on both command lines, whose arguments and
options are built from its fields (`enqueue/operations.py`).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Annotated, ClassVar, Final, NewType, get_args

import msgspec

TenantId = NewType("TenantId", str)
PoolId = NewType("PoolId", str)
InstanceId = NewType("InstanceId", str)
RequestId = NewType("RequestId", str)
HostName = NewType("HostName", str)

# `\A...\Z`, not `^...$`: `$` also matches before a trailing newline.
LABEL_PATTERN: Final = r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
INSTANCE_PATTERN: Final = r"\Ai-[0-9a-f]{8}\Z"
REQUEST_ID_PATTERN: Final = r"\A[A-Za-z0-9-]{1,64}\Z"

Tenant = Annotated[TenantId, msgspec.Meta(pattern=LABEL_PATTERN)]
Pool = Annotated[PoolId, msgspec.Meta(pattern=LABEL_PATTERN)]
Instance = Annotated[InstanceId, msgspec.Meta(pattern=INSTANCE_PATTERN)]
Host = Annotated[HostName, msgspec.Meta(pattern=LABEL_PATTERN)]
RequestKey = Annotated[RequestId, msgspec.Meta(pattern=REQUEST_ID_PATTERN)]

MAX_NET_ID: Final = 4095


def bridge_name(tenant_net_id: int) -> str:
    """The name of a tenant's bridge; at most 14 bytes, so it fits IFNAMSIZ."""
    return f"br-tenant-{tenant_net_id}"


class TenantNet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tenant's network on a host: a private /24 behind one bridge.

    `gateway_ip` is the first address of `ipv4_subnet` and belongs to the bridge.
    """

    tenant_net_id: Annotated[int, msgspec.Meta(ge=0, le=MAX_NET_ID)]
    ipv4_subnet: str
    gateway_ip: str
    bridge_name: str

    @classmethod
    def of(cls, tenant_net_id: int, ipv4_subnet: str) -> TenantNet:
        """The network of that id in that /24: gateway and bridge follow from them.

        Raises:
            ValueError: the subnet is not a private /24.
        """
        return cls(
            tenant_net_id=tenant_net_id,
            ipv4_subnet=ipv4_subnet,
            gateway_ip=str(IPv4Network(ipv4_subnet).network_address + 1),
            bridge_name=bridge_name(tenant_net_id),
        )

    def __post_init__(self) -> None:
        try:
            subnet = IPv4Network(self.ipv4_subnet)
            gateway = IPv4Address(self.gateway_ip)
        except (AddressValueError, ValueError) as error:
            raise ValueError(f"net: {error}") from None
        if str(subnet) != self.ipv4_subnet or subnet.prefixlen != 24 or not subnet.is_private:
            raise ValueError(f"net.ipv4_subnet must be a private /24, not {self.ipv4_subnet!r}")
        if gateway != subnet.network_address + 1:
            raise ValueError(
                f"net.gateway_ip must be the first address of {subnet}, not {self.gateway_ip!r}"
            )
        if self.bridge_name != bridge_name(self.tenant_net_id):
            raise ValueError(
                f"net.bridge_name must be {bridge_name(self.tenant_net_id)!r} for net id "
                f"{self.tenant_net_id}, not {self.bridge_name!r}"
            )


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag=True
):
    """What every request has: its name on the command line, and its line of help."""

    command: ClassVar[str]
    summary: ClassVar[str]


class _OnInstance(_Request, frozen=True, kw_only=True):
    """A request about one instance."""

    tenant_id: Tenant
    pool_id: Pool
    instance_id: Instance


class _OnNetwork(_Request, frozen=True, kw_only=True):
    """A request about a tenant's network."""

    tenant_id: Tenant
    net: TenantNet


class StartInstance(_OnInstance, frozen=True, kw_only=True):
    """Network, TAP, cgroup, disks, jail and Firecracker are up; the guest is booted."""

    command: ClassVar[str] = "start"
    summary: ClassVar[str] = "boot an instance"


class StopInstance(_OnInstance, frozen=True, kw_only=True):
    """Firecracker, cgroup, TAP and jail are gone; the data volume is kept.

    A sleep image is discarded.
    """

    command: ClassVar[str] = "stop"
    summary: ClassVar[str] = "stop an instance, keeping its data volume"


class SleepInstance(_OnInstance, frozen=True, kw_only=True):
    """The guest's memory is in a durable image, and its VMM is gone."""

    command: ClassVar[str] = "sleep"
    summary: ClassVar[str] = "save an instance's memory and stop it"

    force: Annotated[bool, msgspec.Meta(description="Skip the guest's drain.")] = False
    drain_timeout_secs: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=86_400)] | None,
        msgspec.Meta(description="Bound of the guest's drain (default: the pool's)."),
    ] = None


class WakeInstance(_OnInstance, frozen=True, kw_only=True):
    """The guest runs again, with the memory in its image."""

    command: ClassVar[str] = "wake"
    summary: ClassVar[str] = "let an instance run on from its memory"


class DestroyInstance(_OnInstance, frozen=True, kw_only=True):
    """The instance is removed; its volumes are kept unless `wipe_volumes`."""

    command: ClassVar[str] = "destroy"
    summary: ClassVar[str] = "remove an instance"

    wipe_volumes: Annotated[bool, msgspec.Meta(description="Remove its data volumes, too.")] = False


class SetupNetwork(_OnNetwork, frozen=True, kw_only=True):
    """The tenant's bridge, its address, and the forwarding and NAT rules exist."""

    command: ClassVar[str] = "net-up"
    summary: ClassVar[str] = "set a tenant's network up"


class TeardownNetwork(_OnNetwork, frozen=True, kw_only=True):
    """The tenant's bridge and rules are gone."""

    command: ClassVar[str] = "net-down"
    summary: ClassVar[str] = "take a tenant's network down"


class Ping(_Request, frozen=True, kw_only=True):
    """The host answers."""

    command: ClassVar[str] = "ping"
    summary: ClassVar[str] = "ask whether the host works"


InstanceRequest = StartInstance | StopInstance | SleepInstance | WakeInstance | DestroyInstance
NetworkRequest = SetupNetwork | TeardownNetwork
Request = InstanceRequest | NetworkRequest | Ping

_KINDS: Final[tuple[type[Request], ...]] = get_args(Request)
REQUEST_TYPES: Final = {kind.__name__: kind for kind in _KINDS}  # by operation, as on the wire


def op_of(request: Request) -> str:
    """The operation's name on the wire, as in `StartInstance`."""
    return type(request).__name__


def describe(request: Request) -> str:
    """One line for a person: `SleepInstance acme/workers/i-1a2b3c4d force=false`."""
    if isinstance(request, NetworkRequest):
        net = request.net
        return f"{op_of(request)} {request.tenant_id} {net.ipv4_subnet} on {net.bridge_name}"
    if isinstance(request, Ping):
        return "Ping"
    words = [op_of(request), f"{request.tenant_id}/{request.pool_id}/{request.instance_id}"]
    for name, value in msgspec.structs.asdict(request).items():
        if not name.endswith("_id") and value is not None:
            words.append(f"{name}={msgspec.json.encode(value).decode()}")
    return " ".join(words)
