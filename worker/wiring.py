"""Builds the parts from the configuration: the only place that knows every adapter."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from ipaddress import IPv4Network
from pathlib import Path

from enqueue.signing import load_verifier
from worker import simulator
from worker.config import Config
from worker.errors import ConfigError, HostdError, StartupError
from worker.host import machine
from worker.host.cgroups import KernelCgroups
from worker.host.disks import Ext4Disks
from worker.host.firecracker.driver import Firecracker
from worker.host.firecracker.images import DiskImages
from worker.host.netlink import Netlink
from worker.host.nft import Nft
from worker.host.records import DiskRecords
from worker.names import Layout
from worker.ports import Host
from worker.settings import Settings
from worker.verify import Policy

log = logging.getLogger("hostd")


def build_settings(config: Config) -> Settings:
    """What of the configuration decides plans."""
    return Settings(
        layout=Layout(config.paths.state),
        runtime=config.paths.runtime,
        supernet=IPv4Network(config.network.supernet),
        uplink=config.network.uplink,
        uid_base=config.vmm.uid_base,
        overhead_mib=config.vmm.overhead_mib,
        kill_timeout_s=config.vmm.kill_timeout_s,
        console=config.vmm.console,
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
    firecracker, jailer = vmm_binaries(config)
    try:
        vmm = Firecracker(
            layout,
            firecracker=firecracker,
            jailer=jailer,
            api_timeout_s=config.vmm.api_timeout_s,
            spawn_timeout_s=config.vmm.spawn_timeout_s,
        )
        vmm.version()
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
            images=DiskImages(layout),
        )
    except HostdError as error:
        raise StartupError(f"{error}; {error.hint}") from error


def vmm_binaries(config: Config) -> tuple[Path, Path]:
    """The configured binaries; the stand-ins only if the configuration says so.

    Raises:
        StartupError: one is missing, is not executable, or has another digest.
    """
    if config.vmm.simulate:
        log.warning("SIMULATED: guests are stand-ins, because [vmm] simulate = true")
        return simulator.install(config.paths.runtime / "simulator")
    pairs = (
        ("firecracker", config.vmm.firecracker, config.vmm.firecracker_sha256),
        ("jailer", config.vmm.jailer, config.vmm.jailer_sha256),
    )
    for key, path, digest in pairs:
        if not path.is_file() or not os.access(path, os.X_OK):
            raise StartupError(
                f"[vmm] {key} = {path}: no such program; install Firecracker, correct the path, "
                "or set [vmm] simulate = true to try hostd without it"
            )
        if digest and machine.sha256(path) != digest:
            raise StartupError(f"[vmm] {key} = {path}: its digest is not [vmm] {key}_sha256")
    return config.vmm.firecracker, config.vmm.jailer
