"""Bugs that the predecessor of hostd has in its networks: none of them is in hostd."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from enqueue.requests import InstanceId, PoolId, TenantId, bridge_name
from tests.fakes.world import World
from tests.fakes.world import net as tenant_net
from tests.fixtures.netns import ip, nft
from tests.fixtures.tenants import (
    A1,
    A2,
    A_GATEWAY,
    B1,
    B_GATEWAY,
    HOST,
    IMDS,
    INTERNET,
    A,
    B,
    Net,
    guest,
)
from worker.linux.netns import NetworkNamespace
from worker.model.layout import Layout
from worker.model.names import METADATA_PORT, InstanceRef
from worker.plans.network import network_steps
from worker.plans.settings import Settings
from worker.ports import Host
from worker.steps.confinement import GuestRulesAbsent, SpoofingBarred, TapAbsent, TapPresent
from worker.steps.network import BridgeAbsent, BridgePresent, FirewallAbsent
from worker.steps.step import Step

pytestmark = pytest.mark.root

REF = InstanceRef(TenantId("tenant-5"), PoolId("p"), InstanceId("i-00000001"))
UID = 11_283


@pytest.fixture
def net(netns: NetworkNamespace) -> Iterator[Net]:
    with ExitStack() as stack:
        yield Net(stack, netns)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        layout=Layout(tmp_path / "state"),
        runtime=tmp_path / "run",
        supernet=IPv4Network("10.240.0.0/12"),
        uplink="up0",
        uid_base=10_000,
        overhead_mib=64,
        kill_timeout_s=1.0,
        subordinate_files=(),
    )


@pytest.fixture
def host(net: Net, tmp_path: Path) -> Iterator[Host]:
    """The kernel's network; the rest of the machine is not asked."""
    world = World(tmp_path)
    yield replace(world.context.host, links=net.links, firewall=net.firewall)
    world.close()


def made_true(host: Host, *steps: Step) -> list[str]:
    """The names of the steps that had to be applied."""
    applied = []
    for step in steps:
        if not step.done(host):
            step.apply(host)
            applied.append(step.name)
        assert step.done(host), step.name
    return applied


def network(net_id: int, settings: Settings) -> tuple[Step, ...]:
    return network_steps(TenantId(f"tenant-{net_id}"), tenant_net(net_id), settings)


OPEN_TAP = """
import fcntl, os, struct, sys
tun, name, uid = int(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
os.setgroups([])
os.setgid(uid)
os.setuid(uid)
try:
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", name, 0x5002))
except PermissionError:
    sys.exit(77)
"""  # TUNSETIFF with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR (linux/if_tun.h)


def opens_tap(name: str, *, uid: int) -> bool:
    """Whether a process of that uid, without capabilities, gets hold of the TAP."""
    with Path("/dev/net/tun").open("r+b", buffering=0) as tun:
        done = subprocess.run(
            [sys.executable, "-c", OPEN_TAP, str(tun.fileno()), name, str(uid)],
            pass_fds=(tun.fileno(),),
            check=False,
            timeout=20,
        )
    assert done.returncode in (0, 77)
    return done.returncode == 0


def test_tap_opens_for_the_uid_of_its_jail_only(host: Host, settings: Settings) -> None:
    barred = SpoofingBarred(guest(A, 9))
    present = TapPresent(REF, "tn5i9", bridge_name(A), UID)
    made_true(host, *network(A, settings), barred, present)
    tap = host.links.tap("tn5i9")
    assert tap is not None
    assert tap.owner_uid == UID
    assert opens_tap("tn5i9", uid=UID)
    assert not opens_tap("tn5i9", uid=UID + 1)
    assert not opens_tap("tn5i9", uid=65_534)


def test_tap_owned_by_root_is_made_again_for_the_uid_of_the_jail(
    host: Host, settings: Settings
) -> None:
    made_true(host, *network(A, settings))
    tag = f"hostd:{REF.instance_id}"
    host.links.put_tap("tn5i9", owner_uid=0, bridge=bridge_name(A), owner_tag=tag)
    present = TapPresent(REF, "tn5i9", bridge_name(A), UID)
    assert made_true(host, present) == ["tap_present"]
    assert opens_tap("tn5i9", uid=UID)


@pytest.mark.parametrize(
    "half",
    [
        "link set br-tenant-5 down",
        "addr del 10.240.5.1/24 dev br-tenant-5",
        "addr add 10.240.7.1/24 dev br-tenant-5",
        "link set br-tenant-5 address 02:00:00:00:00:01",
    ],
)
def test_half_built_bridge_does_not_count_as_built(
    host: Host, settings: Settings, half: str
) -> None:
    made_true(host, *network(A, settings))
    assert made_true(host, *network(A, settings)) == []
    ip(half)
    assert not BridgePresent(TenantId("tenant-5"), tenant_net(A)).done(host)
    assert made_true(host, *network(A, settings)) == ["bridge_present"]


def test_traffic_between_tenants_is_dropped_and_flushed_rules_come_back(
    net: Net, host: Host, settings: Settings
) -> None:
    assert net.reaches(A1, B1) == A1
    made_true(host, *network(A, settings), *network(B, settings))
    net.restrict_guests()
    assert net.is_dropped(A1, B1)
    assert net.is_dropped(B1, A1)
    nft("flush ruleset")
    assert set(made_true(host, *network(A, settings))) == {"firewall_present"}
    net.restrict_guests()
    assert net.is_dropped(A1, B1)


def test_guests_cannot_reach_the_metadata_service_of_the_cloud(
    net: Net, host: Host, settings: Settings
) -> None:
    assert net.reaches(A1, IMDS) == A1
    made_true(host, *network(A, settings))
    net.restrict_guests()
    assert net.is_dropped(A1, IMDS)
    assert net.reaches(A1, INTERNET) == HOST


@pytest.mark.parametrize("order", [(A, B), (B, A)])
def test_rules_of_one_tenant_do_not_block_the_metadata_endpoint_of_another(
    net: Net, host: Host, settings: Settings, order: tuple[int, int]
) -> None:
    for net_id in order:
        made_true(host, *network(net_id, settings))
    net.restrict_guests()
    assert net.reaches(A1, A_GATEWAY, METADATA_PORT) == A1
    assert net.reaches(A2, A_GATEWAY, METADATA_PORT) == A2
    assert net.reaches(B1, B_GATEWAY, METADATA_PORT) == B1
    assert net.is_dropped(A1, B_GATEWAY, METADATA_PORT)
    assert net.is_dropped(B1, A_GATEWAY, METADATA_PORT)
    host.firewall.remove(A)
    assert net.reaches(B1, B_GATEWAY, METADATA_PORT) == B1


def test_nothing_of_a_guest_or_a_tenant_is_left(host: Host, settings: Settings) -> None:
    barred = SpoofingBarred(guest(B, 9))
    present = TapPresent(REF, "tn6i9", bridge_name(B), UID)
    made_true(host, *network(A, settings), *network(B, settings), barred, present)
    made_true(host, TapAbsent("tn6i9"), GuestRulesAbsent("tn6i9"))
    assert host.firewall.guests() == frozenset()
    made_true(host, BridgeAbsent(tenant_net(B)), FirewallAbsent(B))
    assert host.firewall.tenants() == {A}
    assert "10.240.6" not in nft("list ruleset")
    assert "tn6" not in nft("list set bridge hostd guests")
    made_true(host, BridgeAbsent(tenant_net(A)), FirewallAbsent(A))
    assert nft("list ruleset") == ""


def test_a_step_taken_back_does_not_cut_off_a_guest_that_runs_on(
    host: Host, settings: Settings
) -> None:
    barred = SpoofingBarred(guest(A, 9))
    present = TapPresent(REF, "tn5i9", bridge_name(A), UID)
    made_true(host, *network(A, settings), barred, present)
    barred.undo(host)
    assert barred.done(host)
    present.undo(host)
    barred.undo(host)
    assert host.firewall.guests() == frozenset()
