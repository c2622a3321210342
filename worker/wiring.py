"""Builds the parts from the configuration: the only place that knows every adapter."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from ipaddress import IPv4Network

from enqueue.signing import load_verifier
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
from worker.linux.subids import SUBORDINATE_FILES
from worker.model.layout import Layout
from worker.plans.settings import Settings
from worker.ports import Host
from worker.protocol.verification import Policy

log = logging.getLogger("hostd")


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
    """Whose requests are accepted.

    Raises:
        ConfigError: no key, and not insecure; or a key file that is none.
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
