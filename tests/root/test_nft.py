"""hostd's nftables table as only a kernel can show it: damage, neighbours, other processes."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract.test_firewall import rules
from tests.fixtures.netns import nft
from worker.errors import Broken, Transient
from worker.host import nft as adapter
from worker.host.libnftables import Libnftables, NftError
from worker.host.netns import NetworkNamespace
from worker.host.nft import Nft
from worker.host.nft_rules import FRAME

pytestmark = pytest.mark.root


@pytest.fixture
def kernel(netns: NetworkNamespace) -> Iterator[Nft]:
    subject = Nft()
    yield subject
    subject.close()


def test_nothing_is_left_after_the_last_tenant(kernel: Nft) -> None:
    for net_id in (5, 6):
        kernel.put(rules(net_id))
    for net_id in (5, 6):
        kernel.remove(net_id)
    assert nft("list ruleset") == ""


def test_tables_of_others_are_left_alone(kernel: Nft) -> None:
    nft("add table inet other; add chain inet other c; add rule inet other c counter drop")
    nft("add table ip hostd; add chain ip hostd c")
    before = nft("list ruleset")
    kernel.put(rules())
    assert kernel.stands(rules())
    kernel.remove(5)
    assert nft("list ruleset") == before


CHAINS = {
    "prerouting": 2,
    "input": 1,
    "guest-to-host": 3,
    "forward": 2,
    "from-guest": 4,
    "to-guest": 2,
    "postrouting": 1,
}


def handles(chain: str) -> list[str]:
    listed = nft(f"list chain inet hostd {chain}", "--handle").splitlines()
    rules_only = [line for line in listed if " # handle " in line and not line.endswith("{")]
    found = [line.split(" # handle ") for line in rules_only if not line.startswith("\tchain ")]
    return [handle for _, handle in found]


@pytest.mark.parametrize(
    ("chain", "number"), [(chain, n) for chain, count in CHAINS.items() for n in range(count)]
)
def test_each_missing_rule_is_seen_and_mended(kernel: Nft, chain: str, number: int) -> None:
    kernel.put(rules(5))
    kernel.put(rules(6))
    assert kernel.stands(rules(5))
    assert len(handles(chain)) == CHAINS[chain]
    nft(f"delete rule inet hostd {chain} handle {handles(chain)[number]}")
    assert not kernel.stands(rules(5))
    assert not kernel.stands(rules(6))
    kernel.put(rules(5))
    assert kernel.stands(rules(5))
    assert kernel.stands(rules(6))


ELEMENTS = [
    'bridges { "br-tenant-5" }',
    'subnets { "br-tenant-5" . 10.240.5.0 }',
    'services { "br-tenant-5" . 10.240.5.1 . 8169 }',
    'routes { "br-tenant-5" . "br-tenant-5" }',
    'routes { "br-tenant-5" . "eth0" }',
]


@pytest.mark.parametrize("element", ELEMENTS)
def test_each_missing_element_is_seen_and_mended(kernel: Nft, element: str) -> None:
    kernel.put(rules(5))
    kernel.put(rules(6))
    nft(f"delete element inet hostd {element}")
    assert not kernel.stands(rules(5))
    assert kernel.stands(rules(6))
    kernel.put(rules(5))
    assert kernel.stands(rules(5))


@pytest.mark.parametrize(
    "element",
    [
        'subnets { "br-tenant-5" . 10.240.6.0 }',
        'services { "br-tenant-5" . 10.240.5.1 . 22 }',
        'routes { "br-tenant-5" . "br-tenant-6" }',
        'roaming { "br-tenant-5" }',
    ],
)
def test_a_hole_for_one_tenant_is_seen_and_closed(kernel: Nft, element: str) -> None:
    kernel.put(rules(5))
    kernel.put(rules(6))
    nft(f"add element inet hostd {element}")
    assert not kernel.stands(rules(5))
    assert kernel.stands(rules(6))
    kernel.put(rules(5))
    assert kernel.stands(rules(5))


@pytest.mark.parametrize(
    "damage",
    [
        "insert rule inet hostd input accept",
        "add rule inet hostd postrouting masquerade",
        "add chain inet hostd extra",
        "add chain inet hostd forward { policy drop; }",
        "add table inet hostd { flags dormant; }",
        "flush table inet hostd",
        "flush ruleset",
    ],
)
def test_other_damage_to_the_table_is_seen_and_mended(kernel: Nft, damage: str) -> None:
    kernel.put(rules())
    assert kernel.stands(rules())
    nft(damage)
    assert not kernel.stands(rules())
    kernel.put(rules())
    assert kernel.stands(rules())


def test_a_replaced_rule_is_seen(kernel: Nft) -> None:
    kernel.put(rules())
    assert kernel.stands(rules())
    last = handles("guest-to-host")[-1]
    nft(f"replace rule inet hostd guest-to-host handle {last} accept")
    assert not kernel.stands(rules())


def test_a_second_adapter_agrees_with_the_first(kernel: Nft) -> None:
    kernel.put(rules())
    second = Nft()
    try:
        assert second.stands(rules())
        assert second.tenants() == {5}
    finally:
        second.close()


def test_two_adapters_changing_at_once_lose_nothing(kernel: Nft) -> None:
    subjects = [Nft(), Nft()]
    failures: list[BaseException] = []

    def put(subject: Nft, first: int) -> None:
        try:
            for net_id in range(first, 40, 2):
                subject.put(rules(net_id))
                subject.remove(net_id)
                subject.put(rules(net_id))
        except BaseException as error:  # noqa: BLE001  (told to the test's thread)
            failures.append(error)

    threads = [
        threading.Thread(target=put, args=pair) for pair in zip(subjects, (0, 1), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for subject in subjects:
        subject.close()
    assert failures == []
    assert kernel.tenants() == frozenset(range(40))


def test_many_tenants_are_read_whole(kernel: Nft) -> None:
    # The answer is larger than one netlink packet.
    for net_id in range(250):
        kernel.put(rules(net_id))
    assert kernel.tenants() == frozenset(range(250))
    assert all(kernel.stands(rules(net_id)) for net_id in range(250))


def test_a_name_that_is_no_device_never_reaches_nftables(kernel: Nft) -> None:
    with pytest.raises(ValueError, match="no name of a network device"):
        kernel.put(replace(rules(), uplink='x" }; flush ruleset #'))
    assert nft("list ruleset") == ""


def test_a_refusal_by_the_kernel_is_told_in_its_words(kernel: Nft) -> None:
    library = Libnftables()
    try:
        with pytest.raises(NftError, match="No such file"):
            library.run("add rule inet nowhere c accept\n")
    finally:
        library.close()


def test_a_gateway_that_is_no_address_is_broken(kernel: Nft) -> None:
    with pytest.raises(Broken) as refused:
        kernel.put(replace(rules(), gateway_ip="300.1.1.1"))
    assert refused.value.code == "broken/nftables"
    assert nft("list ruleset") == ""


def test_an_adapter_stays_in_the_namespace_it_was_made_in(kernel: Nft) -> None:
    elsewhere = NetworkNamespace()
    try:
        with elsewhere.entered():
            kernel.put(rules())
            assert kernel.stands(rules())
            assert nft("list ruleset") == ""
        assert "br-tenant-5" in nft("list table inet hostd")
    finally:
        elsewhere.close()


def test_a_turn_that_does_not_come_is_told(
    kernel: Nft, netns: NetworkNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "_TURN_WITHIN_S", 0.05)
    with netns.path.open() as other_process:
        fcntl.flock(other_process, fcntl.LOCK_EX)
        with pytest.raises(Transient) as refused:
            kernel.put(rules())
    assert refused.value.code == "transient/firewall_busy"
    kernel.put(rules())
    assert kernel.stands(rules())


def test_another_wording_by_libnftables_is_no_damage(
    kernel: Nft, monkeypatch: pytest.MonkeyPatch
) -> None:
    worded = FRAME.replace("priority raw;", "priority -300;").replace("\t", "  ")
    assert worded != FRAME
    monkeypatch.setattr(adapter, "FRAME", worded)
    kernel.put(rules())
    assert kernel.stands(rules())
    nft("flush chain inet hostd from-guest")
    assert not kernel.stands(rules())
