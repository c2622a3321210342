"""Builds all parts from the configuration: the one file that knows every adapter.

What only `hostd run` needs is imported where it is built, so that other commands start faster.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Final, Protocol

from enqueue.keys import HostKeys
from enqueue.results import Pong
from enqueue.signing import load_verifier
from enqueue.times import Clock
from worker import simulator
from worker.config import Config
from worker.errors import ConfigError, HostdError, StartupError
from worker.host.agents.agents import GuestAgents
from worker.host.cgroups.cgroups import KernelCgroups
from worker.host.disks.disks import Ext4Disks
from worker.host.firecracker.driver import Firecracker
from worker.host.firewall.firewall import Nft
from worker.host.images.images import DiskImages
from worker.host.links.links import Netlink
from worker.host.records.records import DiskRecords
from worker.linux import machine
from worker.linux.subids import SUBORDINATE_FILES
from worker.model.layout import Layout
from worker.model.names import InstanceRef
from worker.plans.settings import Settings
from worker.ports import Host
from worker.protocol.delivery import Delivery
from worker.protocol.verification import Policy

if TYPE_CHECKING:
    from worker.drain.controller import DrainController
    from worker.ledger.ledger import Ledger
    from worker.queue.consumer import HostWorker
    from worker.queue.publisher import RedisPublisher
    from worker.request.context import Context, Publisher
    from worker.scheduling.executors import Executors
    from worker.sweep.sweeper import Sweeper

log = logging.getLogger("hostd")

BOOT_ID: Final = "boot_id"  # of the boot in which every instance was last reconciled


class Callbacks(Protocol):
    """What the parts of a running hostd call."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Submits jobs that the consumer has taken, in order."""

    def refuse(self, delivery: Delivery, reason: str) -> None:
        """Handles a job that cannot be read."""

    def watch(self, ref: InstanceRef) -> None:
        """Watches the instance's VMM, if one lives."""

    def pong(self) -> Pong:
        """The answer to a Ping."""

    def fail(self, error: BaseException) -> None:
        """Stops hostd because of this error."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a running hostd consists of.

    `queue_depth` is that of `worker.queue.depth`; `refresh_claim` refreshes the key that says which
    machine serves this host name; `rebooted`: the host has booted since the last hostd ran.
    """

    context: Context
    publisher: RedisPublisher
    worker: HostWorker
    drain: DrainController
    sweeper: Sweeper
    queue_depth: Callable[[], tuple[int, int] | None]
    refresh_claim: Callable[[], None]
    boot_id: str
    firecracker_version: str
    rebooted: bool


def build_parts(config: Config, policy: Policy, calls: Callbacks, opened: ExitStack) -> Parts:
    """All parts of a running hostd; `opened` closes them.

    Raises:
        StartupError: a part cannot be built; the message names it and the way out.
    """
    from worker.drain.controller import DrainController
    from worker.ledger.identity import open_ledger
    from worker.queue import connection
    from worker.queue.consumer import BLOCK_S, HostWorker
    from worker.queue.depth import queue_depth
    from worker.queue.publisher import RedisPublisher
    from worker.scheduling.executors import Executors
    from worker.sweep.history import SweepHistory
    from worker.sweep.state_guard import is_same_state
    from worker.sweep.sweeper import Sweeper

    layout, keys = Layout(config.paths.state), HostKeys(config.host)
    machine_id, boot_id = machine.machine_id(), machine.boot_id()
    redis = connection.connect(config.redis)
    opened.callback(redis.close)
    connection.check(redis, config.redis)
    owner = connection.Owner(
        machine_id=machine_id, runtime=str(config.paths.runtime), pid=os.getpid()
    )
    connection.check_owner(redis, keys, owner)
    host = build_host(config, opened)
    firecracker_version = host.vmm.version()
    ledger = open_ledger(config.paths.ledger, host, layout, now_ms=int(time.time() * 1000))
    opened.callback(ledger.close)
    connection.claim(redis, keys, owner)
    name = f"{config.host}_{machine_id[:8]}"
    publisher = RedisPublisher(redis, ledger, keys, config.worker, worker_name=name, wall=time.time)
    executors = Executors(config.worker.threads, answering=publisher.batch, fatal=calls.fail)
    rebooted = ledger.meta.get(BOOT_ID) not in (None, boot_id)
    context = build_context(config, policy, calls, host, ledger, publisher, executors)
    taking = connection.connect(config.redis, extra_timeout_s=BLOCK_S)
    opened.callback(taking.close)
    worker = HostWorker(
        taking,
        keys,
        name=name,
        deliver=calls.deliver,
        refuse=calls.refuse,
        room=lambda: config.worker.queue_limit - sum(executors.counts()),
        arrived=publisher.flush,
        paused=publisher.paused,
    )
    sweeper = Sweeper(
        context,
        SweepHistory.of(config, boot_id=boot_id),
        same_state=lambda: is_same_state(ledger, layout, boot_id=boot_id),
    )
    drain = DrainController(context, rebooted=rebooted)
    return Parts(
        context=context, publisher=publisher, worker=worker, drain=drain, sweeper=sweeper,
        queue_depth=lambda: queue_depth(redis, keys),
        refresh_claim=lambda: connection.refresh(redis, keys, owner),
        boot_id=boot_id, firecracker_version=firecracker_version, rebooted=rebooted,
    )  # fmt: skip


def build_context(
    config: Config,
    policy: Policy,
    calls: Callbacks,
    host: Host,
    ledger: Ledger,
    publisher: Publisher,
    executors: Executors,
) -> Context:
    """What every request needs."""
    from worker.protocol.metrics import Metrics
    from worker.request.context import Context
    from worker.scheduling.locks import Locks
    from worker.scheduling.suspects import suspects_at_start

    return Context(
        config=config,
        settings=build_settings(config),
        policy=policy,
        host=host,
        ledger=ledger,
        locks=Locks(config.paths.runtime / "lock", timeout_s=config.worker.lock_timeout_s),
        publisher=publisher,
        executors=executors,
        metrics=Metrics(),
        clock=Clock(),
        pong=calls.pong,
        random=random.random,
        suspects=suspects_at_start(ledger),
        watch=calls.watch,
    )


def build_settings(config: Config) -> Settings:
    """The part of the configuration that plans depend on."""
    return Settings(
        layout=Layout(config.paths.state),
        runtime=config.paths.runtime,
        supernet=IPv4Network(config.network.supernet),
        uplink=config.network.uplink,
        uid_base=config.vmm.uid_base,
        overhead_mib=config.vmm.overhead_mib,
        kill_timeout_s=config.vmm.kill_timeout_s,
        subordinate_files=SUBORDINATE_FILES,
        guest_wait_s=config.worker.request_timeout_s / 2,  # the rest is for what follows
        console=config.vmm.console,
        wake_across_kernels=config.vmm.wake_across_kernels,
    )


def build_policy(config: Config) -> Policy:
    """Whose requests this host accepts.

    Raises:
        ConfigError: there is no key and `insecure` is not set, or a key file is not valid.
    """
    try:
        verifier = load_verifier(config.security.keys_dir)
    except (OSError, ValueError) as error:
        raise ConfigError(f"security.keys_dir: {error}") from error
    if not verifier.keys and not config.security.insecure:
        raise ConfigError(
            f"security.keys_dir = {config.security.keys_dir} holds no key: make one with "
            "`hostctl keygen`, or accept unsigned requests with security.insecure = true"
        )
    return Policy(config.host, verifier, config.security.insecure)


def build_host(config: Config, opened: ExitStack) -> Host:
    """The machine's adapters; `opened` closes them.

    Raises:
        StartupError: a binary is missing, or the kernel lacks something.
    """
    layout, runtime = Layout(config.paths.state), config.paths.runtime
    try:
        vmm = build_vmm(config)
        vmm.check_programs()
        links, firewall = Netlink(), Nft()
        opened.callback(links.close)
        opened.callback(firewall.close)
        return Host(
            links=links,
            firewall=firewall,
            cgroups=KernelCgroups(config.cgroup.parent),
            disks=Ext4Disks(runtime),  # never closed: guests outlive hostd, so must their disks
            records=DiskRecords(layout),
            vmm=vmm,
            images=DiskImages(
                layout,
                reserve_bytes=config.images.keep_free_mib << 20,
                digest_memory=config.images.digest_memory,
            ),
            agents=GuestAgents(layout, vmm, timeout_s=config.vmm.agent_timeout_s),
        )
    except HostdError as error:
        raise StartupError(f"{error}; {error.hint}") from error


def build_vmm(config: Config) -> Firecracker:
    """The driver of the configured programs; of the stand-ins only if the configuration says so."""
    vmm = config.vmm
    firecracker, jailer = vmm.firecracker, vmm.jailer
    digests = vmm.firecracker_sha256, vmm.jailer_sha256
    if vmm.simulate:
        log.warning("SIMULATED: guests are stand-ins, because [vmm] simulate = true")
        firecracker, jailer = simulator.install(config.paths.runtime / "simulator")
        digests = "", ""
    return Firecracker(
        Layout(config.paths.state),
        firecracker=firecracker,
        jailer=jailer,
        firecracker_sha256=digests[0],
        jailer_sha256=digests[1],
        api_timeout_s=vmm.api_timeout_s,
        spawn_timeout_s=vmm.spawn_timeout_s,
    )
