"""FIFO by conflict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enqueue.requests import InstanceId, PoolId, SetupNetwork, StartInstance, TenantId, TenantNet
from worker.scheduling.turns import EXCLUSIVE, SHARED, Key, Turns, keys_of

A: Key = ("instance", "a")
T: Key = ("tenant", "t")


def test_an_instance_runs_one_request_at_a_time_in_order() -> None:
    turns: Turns[str] = Turns()
    assert turns.admit("first", {A: EXCLUSIVE})
    assert not turns.admit("second", {A: EXCLUSIVE})
    assert not turns.admit("third", {A: EXCLUSIVE})
    assert turns.finish("first") == ["second"]
    assert turns.finish("second") == ["third"]


def test_instances_of_a_tenant_run_in_parallel_but_not_beside_its_network_operation() -> None:
    turns: Turns[str] = Turns()
    assert turns.admit("start-a", {A: EXCLUSIVE, T: SHARED})
    assert turns.admit("start-b", {("instance", "b"): EXCLUSIVE, T: SHARED})
    assert not turns.admit("teardown", {T: EXCLUSIVE})
    assert not turns.admit("start-c", {("instance", "c"): EXCLUSIVE, T: SHARED})
    assert turns.finish("start-a") == []
    assert turns.finish("start-b") == ["teardown"]
    assert turns.finish("teardown") == ["start-c"]


def test_one_that_waits_can_be_taken_out_without_waking_the_wrong_one() -> None:
    turns: Turns[str] = Turns()
    turns.admit("first", {A: EXCLUSIVE})
    turns.admit("second", {A: EXCLUSIVE})
    turns.admit("third", {A: EXCLUSIVE})
    assert turns.finish("second") == []
    assert turns.finish("first") == ["third"]


def test_two_tenants_that_claim_one_net_id_wait_for_each_other() -> None:
    net = TenantNet(
        tenant_net_id=5,
        ipv4_subnet="10.240.5.0/24",
        gateway_ip="10.240.5.1",
        bridge_name="br-tenant-5",
    )
    turns: Turns[str] = Turns()
    assert turns.admit("x", keys_of(SetupNetwork(tenant_id=TenantId("x"), net=net)))
    assert not turns.admit("y", keys_of(SetupNetwork(tenant_id=TenantId("y"), net=net)))


def test_an_instance_operation_shares_its_tenant() -> None:
    start = StartInstance(
        tenant_id=TenantId("t"), pool_id=PoolId("p"), instance_id=InstanceId("i-00000001")
    )
    assert keys_of(start) == {("instance", "i-00000001"): EXCLUSIVE, T: SHARED}


ENTRIES = st.lists(
    st.dictionaries(
        st.tuples(st.just("k"), st.sampled_from("abcd")), st.booleans(), min_size=1, max_size=3
    ),
    max_size=12,
)


@given(ENTRIES, st.randoms(use_true_random=False))
def test_a_request_runs_exactly_when_no_earlier_unfinished_one_conflicts(
    entries: list[dict[Key, bool]], random: st.DataObject
) -> None:
    turns: Turns[int] = Turns()
    unfinished: list[int] = []
    for number, keys in enumerate(entries):
        turns.admit(number, keys)
        unfinished.append(number)

    def conflicts(one: int, other: int) -> bool:
        shared = entries[one].keys() & entries[other].keys()
        return any(not (entries[one][key] and entries[other][key]) for key in shared)

    while unfinished:
        for number in unfinished:
            earlier = [other for other in unfinished if other < number]
            may_run = not any(conflicts(number, other) for other in earlier)
            assert turns.may_run(number) == may_run
        gone = random.choice(unfinished)  # type: ignore[attr-defined]  # a random.Random
        turns.finish(gone)
        unfinished.remove(gone)
