"""Finds what the demo left behind, by asking the kernel."""

from __future__ import annotations

import os
from pathlib import Path

from worker.demo.cleanup import control_groups
from worker.demo.sandbox import BASE, CGROUP
from worker.host.firewall.firewall import Nft
from worker.host.links.links import Netlink
from worker.linux import mounts
from worker.linux.netns import NetworkNamespace


def leftovers(namespace: NetworkNamespace | None = None, *, running: bool = False) -> list[str]:
    """Every trace: links, nft, control groups, processes, mounts, files.

    While the demo is `running`, its own processes, directory and empty parent group do not count.
    Without a `namespace` its network is not searched: it was deleted with everything in it.
    """
    left = []
    if namespace is not None:
        with namespace.entered():
            left += _in_network()
    groups = [path for path in control_groups(CGROUP) if not running or path.name.startswith("i-")]
    left += [f"control group {path}" for path in groups]
    left += [f"process {pid}" for pid in _processes(jailed_only=running)]
    left += [f"mount {path}" for path in mounts.below(BASE) if not running or "jail" in path.parts]
    if not running and BASE.exists():
        left.append(f"directory {BASE}")
    return left


def _in_network() -> list[str]:
    links, firewall = Netlink(), Nft()
    try:
        devices = [f"link {name} ({mark})" for name, mark in links.owned().items()]
        return devices + [f"nft rules of net {net_id}" for net_id in firewall.tenants()]
    finally:
        links.close()
        firewall.close()


def _processes(*, jailed_only: bool) -> list[int]:
    """Processes whose command line names the sandbox; `jailed_only`: of jails alone."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(BASE) in command and (not jailed_only or "--chroot-base-dir" in command):
            found.append(int(entry.name))
    return found
