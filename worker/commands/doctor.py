"""`hostd doctor`: whether this machine can be a production host.

It checks Firecracker's "Production Host Setup Recommendations", and what hostd itself needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from worker.commands.ledger import HINT, health
from worker.config import Config
from worker.errors import ConfigError, HostdError, StartupError
from worker.host.cgroups.cgroups import KernelCgroups
from worker.host.disks import fscrypt, luks
from worker.host.firecracker.binary import Binary
from worker.host.firewall.firewall import Nft
from worker.linux.subids import SUBORDINATE_FILES, first_overlap
from worker.model.layout import Layout
from worker.model.names import FIRST_OFFSET, jail_uid
from worker.queue import connection as redis_host
from worker.wiring import build_policy, build_vmm

Grade = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check; `hint` says how to mend it."""

    check: str
    grade: Grade
    seen: str
    hint: str = ""


def examine(config: Config) -> list[Finding]:
    """The results of all checks; none changes anything."""
    checks: list[Callable[[Config], Iterator[Finding]]] = [
        _root, _kvm, _binaries, _memory, _processor, _network, _control_groups, _redis, _keys,
        _disk, _encryption, _image_encryption, _uids, _ledger,
    ]  # fmt: skip
    return [finding for check in checks for finding in check(config)]


def _root(_: Config) -> Iterator[Finding]:
    is_root = os.geteuid() == 0
    hint = "" if is_root else "run hostd as root"
    yield Finding("root", "ok" if is_root else "fail", f"uid {os.geteuid()}", hint)


def _kvm(config: Config) -> Iterator[Finding]:
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        grade: Grade = "warn" if config.vmm.simulate else "fail"
        yield Finding("kvm", grade, str(error), "enable virtualization, load kvm_intel or kvm_amd")
    else:
        yield Finding("kvm", "ok", "/dev/kvm opens")


def _binaries(config: Config) -> Iterator[Finding]:
    if config.vmm.simulate:
        yield Finding("vmm", "warn", "guests are simulated", "set [vmm] simulate = false")
        return
    for key in ("firecracker", "jailer"):
        path: Path = getattr(config.vmm, key)
        pinned: str = getattr(config.vmm, f"{key}_sha256")
        program = Binary(path, key, pinned)
        try:
            program.trusted()
            digest = program.sha256()
        except HostdError as error:
            yield Finding(key, "fail", str(error), error.hint)
            continue
        hint = "" if pinned else f'pin it: {key}_sha256 = "{digest}"'
        yield Finding(key, "ok" if pinned else "warn", f"{path} {digest[:12]}", hint)
    vmm = build_vmm(config)
    try:
        vmm.check_programs()
        yield Finding("version", "ok", vmm.version())
    except HostdError as error:
        yield Finding("version", "fail", str(error), error.hint)


def _memory(_: Config) -> Iterator[Finding]:
    swaps = _read("/proc/swaps").splitlines()[1:]
    yield Finding(
        "swap", "warn" if swaps else "ok", f"{len(swaps)} swap devices",
        "turn swap off: guests' memory and secrets could reach a disk" if swaps else "",
    )  # fmt: skip
    ksm = _read("/sys/kernel/mm/ksm/run") == "1"
    yield Finding(
        "ksm", "warn" if ksm else "ok", "on" if ksm else "off",
        "echo 0 > /sys/kernel/mm/ksm/run: page sharing leaks between tenants" if ksm else "",
    )  # fmt: skip


def _processor(_: Config) -> Iterator[Finding]:
    smt = _read("/sys/devices/system/cpu/smt/active") == "1"
    yield Finding(
        "smt", "warn" if smt else "ok", "on" if smt else "off",
        "sibling threads share caches: turn SMT off or pin tenants" if smt else "",
    )  # fmt: skip
    directory = Path("/sys/devices/system/cpu/vulnerabilities")
    open_ones = [p.name for p in sorted(directory.glob("*")) if "Vulnerable" in _read(p)]
    yield Finding(
        "vulnerabilities", "warn" if open_ones else "ok", ", ".join(open_ones) or "mitigated",
        "update microcode and kernel" if open_ones else "",
    )  # fmt: skip


def _network(config: Config) -> Iterator[Finding]:
    try:
        firewall = Nft()
        tenants = len(firewall.tenants())
        firewall.close()
        yield Finding("nftables", "ok", f"{tenants} tenants have rules")
    except (HostdError, OSError) as error:
        yield Finding("nftables", "fail", str(error), "install Debian's libnftables1")
    tun = Path("/dev/net/tun").exists()
    yield Finding("tun", "ok" if tun else "fail", "/dev/net/tun", "" if tun else "modprobe tun")
    uplink = config.network.uplink or "any device but the tenants' bridges"
    yield Finding("uplink", "ok", uplink)


def _control_groups(config: Config) -> Iterator[Finding]:
    try:
        groups = KernelCgroups(config.cgroup.parent)
        yield Finding("cgroups", "ok", f"{len(groups.instances())} instances' groups")
    except HostdError as error:
        yield Finding("cgroups", "fail", str(error), error.hint)
    yield favordynmods(_read("/proc/self/mounts"))


def favordynmods(mounts: str) -> Finding:
    """Whether a VMM joins its control group at once; `mounts` is /proc/self/mounts.

    Without `favordynmods` (cgroup-v2.rst, Linux 6.1) the kernel waits for an RCU grace period
    before a process may join: 6 ms of each start and wake on a machine with two processors that
    is idle, 13 ms on a busy one.  The option on one hierarchy applies to all.
    """
    lines = [line.split(" ") for line in mounts.splitlines()]
    groups = {line[1]: line for line in lines if line[2] in ("cgroup", "cgroup2")}
    if any("favordynmods" in line[3].split(",") for line in groups.values()):
        return Finding("favordynmods", "ok", "a VMM joins its control group at once")
    point = next((at for at, line in groups.items() if line[2] == "cgroup2"), "/sys/fs/cgroup")
    hint = f"mount -o remount,favordynmods {point}, at each boot (Linux 6.1 and later)"
    return Finding("favordynmods", "warn", "each start waits to join a control group", hint)


def _redis(config: Config) -> Iterator[Finding]:
    try:
        client = redis_host.connect(config.redis)
        try:
            redis_host.check(client, config.redis)
        finally:
            client.close()
        yield Finding("redis", "ok", "AOF on and read back whole, noeviction")
    except (StartupError, ConfigError) as error:
        yield Finding("redis", "fail", str(error), "see deploy/redis")


def _keys(config: Config) -> Iterator[Finding]:
    try:
        policy = build_policy(config)
    except ConfigError as error:
        yield Finding("keys", "fail", str(error), "`hostctl keygen`")
        return
    if policy.insecure:
        yield Finding("keys", "fail", "unsigned requests are accepted", "security.insecure = false")
    else:
        yield Finding("keys", "ok", ", ".join(sorted(policy.verifier.keys)))


def _disk(config: Config) -> Iterator[Finding]:
    path = next(p for p in (config.paths.state, *config.paths.state.parents) if p.exists())
    room = os.statvfs(path)
    free_gib = room.f_bavail * room.f_frsize / 2**30
    memory_kib = int(_read("/proc/meminfo").split()[1])
    enough = free_gib * 2**20 >= memory_kib
    yield Finding(
        "disk", "ok" if enough else "warn", f"{free_gib:.0f} GiB free at {path}",
        "" if enough else "less than this machine's memory: not every guest could sleep at once",
    )  # fmt: skip


def _ledger(config: Config) -> Iterator[Finding]:
    grade, seen = health(config)
    yield Finding("ledger", grade, seen, "" if grade == "ok" else HINT)


def _image_encryption(config: Config) -> Iterator[Finding]:
    layout = Layout(config.paths.state)
    if not any(layout.disk_key("x").parent.glob("*.key")):
        yield Finding("image encryption", "ok", "no tenant has a key for its images")
    elif fscrypt.can_encrypt(layout.state):
        yield Finding("image encryption", "ok", f"{layout.state} can encrypt directories")
    else:
        hint = "tune2fs -O encrypt on its device (ext4): until then such guests cannot sleep"
        yield Finding("image encryption", "fail", f"{layout.state} cannot encrypt", hint)


def _encryption(config: Config) -> Iterator[Finding]:
    keys = sorted(Layout(config.paths.state).disk_key("x").parent.glob("*.key"))
    if not keys:
        yield Finding("encryption", "ok", "no tenant has a key for its disks")
        return
    try:
        seen = f"{len(keys)} keys, {luks.version()}"
        luks.require_device_mapper()
        for path in keys:
            luks.read_key(path)
        yield Finding("encryption", "ok", seen)
    except HostdError as error:
        yield Finding("encryption", "fail", str(error), error.hint)


def _uids(config: Config) -> Iterator[Finding]:
    first = jail_uid(config.vmm.uid_base, 0, FIRST_OFFSET)
    last = jail_uid(config.vmm.uid_base, 4095, 254)
    taken = first_overlap(first, last, SUBORDINATE_FILES)
    hint = "net ids that fall into it are refused; move [vmm] uid_base to use all" if taken else ""
    seen = f"jails use {first}..{last}"
    if taken:
        seen += f", which overlap {taken}"
    yield Finding("uids", "warn" if taken else "ok", seen, hint)


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
