"""Any mixture of requests, kills, reboots, losses of Redis and duplicates keeps the invariants.

`HYPOTHESIS_PROFILE=long` plays for many minutes, each time another game.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enqueue.keys import job_id
from enqueue.requests import (
    DestroyInstance,
    InstanceId,
    InstanceRequest,
    PoolId,
    Request,
    SetupNetwork,
    SleepInstance,
    StartInstance,
    StopInstance,
    TeardownNetwork,
    TenantId,
    WakeInstance,
)
from tests.crash.model.invariants import faults
from tests.crash.model.model_host import Kill, ModelHost
from tests.fakes.world import HOST, net
from worker.model.names import InstanceRef

pytestmark = pytest.mark.timeout(1800)  # a failure is shrunk for minutes
TENANTS = {"acme": 5, "beta": 6}
OWNERS = {"i-00000001": "acme", "i-00000002": "acme", "i-00000003": "beta"}
KINDS: tuple[type[InstanceRequest], ...] = (
    StartInstance, StartInstance, SleepInstance, SleepInstance, WakeInstance, WakeInstance,
    StopInstance,
)  # fmt: skip
FULL_BYTES, ROOMY_BYTES = 10, 1 << 40
DAY_S = 86_400.0


def _ids(instance: str) -> dict[str, Any]:
    return {
        "tenant_id": TenantId(OWNERS[instance]),
        "pool_id": PoolId("p"),
        "instance_id": InstanceId(instance),
    }


def _networks() -> list[Request]:
    asked: list[Request] = []
    for tenant, number in TENANTS.items():
        asked.append(SetupNetwork(tenant_id=TenantId(tenant), net=net(number)))
        asked.append(TeardownNetwork(tenant_id=TenantId(tenant), net=net(number)))
    return asked


INSTANCES = st.sampled_from(sorted(OWNERS))
REFS = INSTANCES.map(lambda i: InstanceRef(TenantId(OWNERS[i]), PoolId("p"), InstanceId(i)))
LIVES = st.builds(lambda kind, i: kind(**_ids(i)), st.sampled_from(KINDS), INSTANCES)
DESTROYED = st.builds(
    lambda i, wipe: DestroyInstance(**_ids(i), wipe_volumes=wipe), INSTANCES, st.booleans()
)
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    LIVES, LIVES, LIVES, LIVES, LIVES, LIVES, st.sampled_from(_networks()), DESTROYED
)
KILLS = st.lists(st.builds(Kill, st.integers(1, 45), st.booleans()), max_size=3)
NUMBERS = st.integers(0, 1_000)

settings.register_profile(
    "ci",
    max_examples=200,
    stateful_step_count=40,
    derandomize=True,
    deadline=None,
    report_multiple_bugs=False,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile(
    "long", settings.get_profile("ci"), max_examples=5_000, derandomize=False, database=None
)


class HostGame(RuleBasedStateMachine):
    """Two tenants, three instances, one host."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory(prefix="hostd-game-")
        self.host = ModelHost(Path(self._directory.name))
        self.sent: dict[str, Request] = {}
        self.seen: dict[InstanceRef, int] = {}
        for tenant, number in TENANTS.items():
            self.host.tenant(tenant, number)
        for instance, tenant in OWNERS.items():
            self.host.instance(tenant, instance)

    # ------------------------------------------------------------ what agentd does

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=4))
    def ask(self, requests: list[Request]) -> None:
        for request in requests:
            request_id = f"r{len(self.sent)}"
            self.sent[request_id] = request
            self.host.enqueue(request, request_id)

    @rule(ref=REFS, kills=KILLS)
    def life_goes_on(self, ref: InstanceRef, kills: list[Kill]) -> None:
        """What is likely to be asked next: a guest starts, sleeps and wakes."""
        status = json.loads(self.host.records.docs[ref])["status"]
        kind = {"running": SleepInstance, "sleeping": WakeInstance}.get(status, StartInstance)
        self.ask(requests=[kind(**_ids(ref.instance_id))])
        self.deliver(kills=kills)

    @rule(ref=REFS)
    def recreated(self, ref: InstanceRef) -> None:
        """agentd uses the id of a destroyed instance again."""
        busy, _ = self.host.ledger.requests.busy()
        status = json.loads(self.host.records.docs[ref])["status"]
        if status == "destroyed" and ref.instance_id not in busy:
            self.host.instance(ref.tenant_id, ref.instance_id)
            self.host.history.disturbed.add(ref.instance_id)

    @precondition(lambda self: self.sent)
    @rule(number=NUMBERS)
    def ask_again(self, number: int) -> None:
        """The same job once more: a retry, a Requeue, a duplicate."""
        request_id = self._known(number)
        self.host.cancelled.discard(job_id(HOST, request_id))
        self.host.enqueue(self.sent[request_id], request_id)

    @precondition(lambda self: self.host.published)
    @rule(number=NUMBERS, request=REQUESTS)
    def ask_otherwise(self, number: int, request: Request) -> None:
        """Another request under an id that stands for one already."""
        told = sorted(self.host.published)
        self.host.enqueue(request, told[number % len(told)].removeprefix(f"{HOST}_"))

    @precondition(lambda self: self.sent)
    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        job = job_id(HOST, self._known(number))
        if job not in self.host.published:
            self.host.cancelled.add(job)

    # ------------------------------------------------------------ what hostd does

    @rule(kills=KILLS)
    def deliver(self, kills: list[Kill]) -> None:
        self.host.works(self.host.deliver, kills)

    @rule(kills=KILLS)
    def restart(self, kills: list[Kill]) -> None:
        self.host.works(self.host.restart, kills)

    @rule(seconds=st.sampled_from([0.5, 5.0, 60.0, DAY_S]), kills=KILLS)
    def time_passes(self, seconds: float, kills: list[Kill]) -> None:
        self.host.now_s += seconds
        self.host.works(self.host.executors.run, kills)

    # ------------------------------------------------------------ what befalls it

    @rule(kills=KILLS)
    def reboot(self, kills: list[Kill]) -> None:
        self.host.reboot()
        self.host.works(lambda: self.host.restart(rebooted=True), kills)

    @rule()
    def redis_forgets(self) -> None:
        """All of it; the clients keep what they were told, and what they have sent."""
        self.host.inbox.clear()
        self.host.cancelled.clear()

    @rule(ref=REFS, kills=KILLS)
    def guest_exits(self, ref: InstanceRef, kills: list[Kill]) -> None:
        self.host.exit(ref)
        self.host.works(self.host.noticed, kills)

    @rule(ref=REFS, at=st.integers(1, 45), kills=KILLS)
    def guest_exits_while_hostd_works(self, ref: InstanceRef, at: int, kills: list[Kill]) -> None:
        self.host.exits_at(ref, at)
        self.host.works(self.host.deliver, kills)
        self.host.exits_at(ref, 0)

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.host.vmm.machine.free_bytes = FULL_BYTES if full else ROOMY_BYTES
        self.host.images.free_bytes = FULL_BYTES if full else ROOMY_BYTES

    # ------------------------------------------------------------ what must hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        found = list(faults(self.host))
        assert not found, found

    @invariant()
    def no_guest_forgets(self) -> None:
        for ref, guest in self.host.vmm.machine.guests.items():
            if self.host.runs(ref):
                assert guest.memory >= self.seen.get(ref, 0), f"{ref} went back"
                self.seen[ref] = self.host.vmm.memory(ref)

    def teardown(self) -> None:
        try:
            self._all_is_published()
        finally:
            self.host.close()
            self._directory.cleanup()

    def _all_is_published(self) -> None:
        """Once all is well again, and clients have sent again what was not answered."""
        self.disk(full=False)
        for request_id, request in self.sent.items():
            if job_id(HOST, request_id) not in self.host.published:
                self.host.enqueue(request, request_id)
        self.host.works(self.host.deliver, [])
        for _ in range(4):
            self.time_passes(seconds=DAY_S, kills=[])
        untold = [r for r in self.sent if job_id(HOST, r) not in self.host.published]
        assert untold == []
        assert self.host.ledger.requests.unfinished() == []
        self.nothing_is_wrong()
        self.no_guest_forgets()

    def _known(self, number: int) -> str:
        return f"r{number % len(self.sent)}"


TestHostGame = HostGame.TestCase
TestHostGame.settings = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
