"""hostd's nftables tables as only a kernel can show it: damage, neighbours, other processes."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.contract.test_firewall import guest, rules
from tests.fixtures.netns import nft
from worker.errors import Broken, StartupError, Transient
from worker.host.firewall import firewall as adapter
from worker.host.firewall import lock as firewall_lock
from worker.host.firewall.firewall import Nft
from worker.host.firewall.reader import NftReader
from worker.host.firewall.ruleset import BASE_RULESET
from worker.linux.libnftables import Libnftables, NftError
from worker.linux.netns import NetworkNamespace
from worker.ports import GuestRules

pytestmark = pytest.mark.root


@pytest.fixture
def kernel(netns: NetworkNamespace) -> Iterator[Nft]:
    subject = Nft()
    yield subject
    subject.close()


def test_nothing_is_left_after_the_last_tenant(kernel: Nft) -> None:
    for net_id in (5, 6):
        kernel.put(rules(net_id))
        kernel.put_guest(guest(net_id))
    for net_id in (5, 6):
        kernel.remove(net_id)
    assert nft("list ruleset") == ""


def test_nothing_is_left_after_the_last_guest_without_its_tenant(kernel: Nft) -> None:
    kernel.put_guest(guest())
    kernel.remove_guest("tn5i3")
    assert nft("list ruleset") == ""


def test_what_is_left_of_one_table_is_removed(kernel: Nft) -> None:
    kernel.put(rules())
    kernel.put_guest(guest())
    nft("delete table inet hostd")
    assert kernel.tenants() == {5}
    kernel.remove(5)
    assert nft("list ruleset") == ""


def test_tables_of_others_are_left_alone(kernel: Nft) -> None:
    nft("add table inet other; add chain inet other c; add rule inet other c counter drop")
    nft("add table ip hostd; add chain ip hostd c")
    nft("add table bridge other; add chain bridge other c; add rule bridge other c drop")
    before = nft("list ruleset")
    kernel.put(rules())
    assert kernel.is_current(rules())
    kernel.remove(5)
    assert nft("list ruleset") == before


CHAINS = {
    "inet hostd prerouting": 3,
    "inet hostd past-bridge": 10,
    "inet hostd input": 2,
    "inet hostd guest-to-host": 3,
    "inet hostd forward": 2,
    "inet hostd from-guest": 4,
    "inet hostd to-guest": 2,
    "inet hostd postrouting": 1,
    "bridge hostd prerouting": 1,
    "bridge hostd input": 1,
    "bridge hostd port": 10,
    "bridge hostd from-guest": 4,
    "bridge hostd own-packet": 2,
    "bridge hostd own-arp": 2,
}


def handles(chain: str) -> list[str]:
    listed = nft(f"list chain {chain}", "--handle").splitlines()
    rules_only = [line for line in listed if " # handle " in line and not line.endswith("{")]
    found = [line.split(" # handle ") for line in rules_only if not line.startswith("\tchain ")]
    return [handle for _, handle in found]


@pytest.mark.parametrize(
    ("chain", "number"), [(chain, n) for chain, count in CHAINS.items() for n in range(count)]
)
def test_each_missing_rule_is_seen_and_mended(kernel: Nft, chain: str, number: int) -> None:
    kernel.put(rules(5))
    kernel.put(rules(6))
    kernel.put_guest(guest())
    assert kernel.is_current(rules(5))
    assert len(handles(chain)) == CHAINS[chain]
    nft(f"delete rule {chain} handle {handles(chain)[number]}")
    assert not kernel.is_current(rules(5))
    assert not kernel.is_current(rules(6))
    assert not kernel.guest_is_current(guest())
    kernel.put(rules(5))
    assert kernel.is_current(rules(5))
    assert kernel.is_current(rules(6))
    assert kernel.guest_is_current(guest())


def test_a_guests_put_repairs_the_base_ruleset_with_all_elements(kernel: Nft) -> None:
    kernel.put(rules(5))
    kernel.put_guest(guest(5, 3))
    kernel.put_guest(guest(5, 30))
    nft("delete chain bridge hostd input")
    kernel.put_guest(guest(5, 3))
    assert kernel.guest_is_current(guest(5, 3))
    assert kernel.guest_is_current(guest(5, 30))
    assert kernel.is_current(rules(5))


@pytest.mark.parametrize(
    "hole",
    ['"tn5i3" . 02:fc:00:05:00:04 . 10.240.5.3', '"tn5i3" . 02:fc:00:05:00:03 . 10.240.5.1'],
)
def test_a_hole_for_one_guest_is_seen_and_closed(kernel: Nft, hole: str) -> None:
    kernel.put_guest(guest(5, 3))
    kernel.put_guest(guest(5, 30))
    nft(f"add element bridge hostd guests {{ {hole} }}")
    assert not kernel.guest_is_current(guest(5, 3))
    assert kernel.guest_is_current(guest(5, 30))
    kernel.put_guest(guest(5, 3))
    assert kernel.guest_is_current(guest(5, 3))
    assert hole not in nft("list set bridge hostd guests")


def test_a_missing_guest_is_seen_and_put_back(kernel: Nft) -> None:
    kernel.put_guest(guest())
    nft('delete element bridge hostd guests { "tn5i3" . 02:fc:00:05:00:03 . 10.240.5.3 }')
    assert not kernel.guest_is_current(guest())
    kernel.put_guest(guest())
    assert kernel.guest_is_current(guest())


@pytest.mark.parametrize(
    "wrong",
    [
        replace(guest(), tap="eth0"),
        replace(guest(), tap='tn5i3" }; flush ruleset #'),
        replace(guest(), mac="02:fc:00:05:00"),
        replace(guest(), ip="10.240.5.3 }"),
    ],
)
def test_invalid_guest_rules_never_reach_nftables(kernel: Nft, wrong: GuestRules) -> None:
    with pytest.raises(ValueError, match=r"not a valid (name|MAC)|Only decimal digits"):
        kernel.put_guest(wrong)
    assert nft("list ruleset") == ""


ELEMENTS = [
    'bridges { "br-tenant-5" }',
    'subnets { "br-tenant-5" . 10.240.5.0 }',
    'services { "br-tenant-5" . 10.240.5.1 . 8169 }',
    "gateways { 10.240.5.1 }",
    'routes { "br-tenant-5" . "br-tenant-5" }',
    'routes { "br-tenant-5" . "eth0" }',
]


@pytest.mark.parametrize("element", ELEMENTS)
def test_each_missing_element_is_seen_and_mended(kernel: Nft, element: str) -> None:
    kernel.put(rules(5))
    kernel.put(rules(6))
    nft(f"delete element inet hostd {element}")
    assert not kernel.is_current(rules(5))
    assert kernel.is_current(rules(6))
    kernel.put(rules(5))
    assert kernel.is_current(rules(5))


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
    assert not kernel.is_current(rules(5))
    assert kernel.is_current(rules(6))
    kernel.put(rules(5))
    assert kernel.is_current(rules(5))


@pytest.mark.parametrize(
    "damage",
    [
        "insert rule inet hostd input accept",
        "add rule inet hostd postrouting masquerade",
        "add chain inet hostd extra",
        "add chain inet hostd forward { policy drop; }",
        "add table inet hostd { flags dormant; }",
        "flush table inet hostd",
        "add chain bridge hostd extra",
        "insert rule bridge hostd own-packet accept",
        "add table bridge hostd { flags dormant; }",
        "flush table bridge hostd",
        "delete table bridge hostd",
        "flush ruleset",
    ],
)
def test_other_damage_to_the_table_is_seen_and_mended(kernel: Nft, damage: str) -> None:
    kernel.put(rules())
    assert kernel.is_current(rules())
    nft(damage)
    assert not kernel.is_current(rules())
    kernel.put(rules())
    assert kernel.is_current(rules())


def test_a_replaced_rule_is_seen(kernel: Nft) -> None:
    kernel.put(rules())
    assert kernel.is_current(rules())
    last = handles("inet hostd guest-to-host")[-1]
    nft(f"replace rule inet hostd guest-to-host handle {last} accept")
    assert not kernel.is_current(rules())


def test_a_second_adapter_agrees_with_the_first(kernel: Nft) -> None:
    kernel.put(rules())
    second = Nft()
    try:
        assert second.is_current(rules())
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


def test_many_tenants_are_read_completely(kernel: Nft) -> None:
    # The answer is larger than one netlink packet.
    for net_id in range(250):
        kernel.put(rules(net_id))
    assert kernel.tenants() == frozenset(range(250))
    assert all(kernel.is_current(rules(net_id)) for net_id in range(250))


def test_an_invalid_device_name_never_reaches_nftables(kernel: Nft) -> None:
    with pytest.raises(ValueError, match="not a valid name of a network device"):
        kernel.put(replace(rules(), uplink='x" }; flush ruleset #'))
    assert nft("list ruleset") == ""


def test_a_refusal_by_the_kernel_is_reported_with_its_message(kernel: Nft) -> None:
    library = Libnftables()
    try:
        with pytest.raises(NftError, match="No such file"):
            library.run("add rule inet nowhere c accept\n")
    finally:
        library.close()


def test_an_invalid_gateway_address_is_broken(kernel: Nft) -> None:
    with pytest.raises(Broken) as refused:
        kernel.put(replace(rules(), gateway_ip="300.1.1.1"))
    assert refused.value.code == "broken/nftables"
    assert nft("list ruleset") == ""


def test_an_adapter_stays_in_the_namespace_it_was_made_in(kernel: Nft) -> None:
    elsewhere = NetworkNamespace()
    try:
        with elsewhere.entered():
            kernel.put(rules())
            assert kernel.is_current(rules())
            assert nft("list ruleset") == ""
        assert "br-tenant-5" in nft("list table inet hostd")
    finally:
        elsewhere.close()


def test_a_lock_that_another_process_keeps_is_reported(
    kernel: Nft, netns: NetworkNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall_lock, "_TIMEOUT_S", 0.05)
    with netns.path.open() as other_process:
        fcntl.flock(other_process, fcntl.LOCK_EX)
        with pytest.raises(Transient) as refused:
            kernel.put(rules())
    assert refused.value.code == "transient/firewall_busy"
    kernel.put(rules())
    assert kernel.is_current(rules())


def test_a_ruleset_printed_in_another_form_is_not_damaged(
    kernel: Nft, monkeypatch: pytest.MonkeyPatch
) -> None:
    worded = BASE_RULESET.replace("priority raw;", "priority -300;").replace("\t", "  ")
    assert worded != BASE_RULESET
    monkeypatch.setattr(adapter, "BASE_RULESET", worded)
    kernel.put(rules())
    assert kernel.is_current(rules())
    nft("flush chain inet hostd from-guest")
    assert not kernel.is_current(rules())


def test_a_context_works_beside_many_descriptors_but_a_new_one_is_refused(kernel: Nft) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held: list[int] = []
    try:
        while not held or held[-1] < 1100:
            held.append(os.open("/dev/null", os.O_RDONLY))
        kernel.put(rules())
        assert kernel.is_current(rules())
        with pytest.raises(StartupError, match="below 1024"):
            Libnftables()
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("when", ["before", "after"])
def test_damage_by_another_program_during_a_change_is_detected(
    kernel: Nft, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    kernel.put(rules())
    assert kernel.is_current(rules())
    run = Libnftables.run

    def run_and_damage(library: Libnftables, text: str) -> str:
        if not text.startswith("add element"):
            return run(library, text)
        if when == "before":
            nft("flush chain inet hostd forward")
        done = run(library, text)
        if when == "after":
            nft("flush chain inet hostd forward")
        return done

    monkeypatch.setattr(Libnftables, "run", run_and_damage)
    kernel.put_guest(guest())
    monkeypatch.undo()
    assert not kernel.is_current(rules())
    kernel.put(rules())
    assert kernel.is_current(rules())
    assert kernel.guest_is_current(guest())


def test_a_change_of_elements_does_not_read_the_base_ruleset_again(
    kernel: Nft, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.put(rules())
    assert kernel.is_current(rules())
    kernel.put_guest(guest())

    def unasked(_: NftReader) -> bytes | None:
        raise AssertionError("the whole frame was read again")

    monkeypatch.setattr(NftReader, "base_digest", unasked)
    assert kernel.guest_is_current(guest())
    kernel.remove_guest("tn5i3")
    assert kernel.is_current(rules())
    monkeypatch.undo()
    nft("add chain inet hostd foreign")
    assert not kernel.is_current(rules())
