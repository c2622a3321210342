"""The state of a host in comparable form: kernel, disk, ledger and Redis."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from enqueue import keys
from enqueue.documents import InstanceDoc, parse_instance
from tests.fixtures.worker import HostdProcess
from worker.host.cgroups.hierarchies import detect
from worker.host.cgroups.kill import members
from worker.linux import mounts
from worker.linux.netns import NetworkNamespace
from worker.model.names import InstanceRef

Seen = dict[str, Any]
# What differs from one run to the next: ids of instances and requests, and names made from them.
_NAMES: Final = re.compile(r"i-[0-9a-f]{8}|r-[0-9]{8}|hostd-test-[0-9a-z_-]+")
_VOLATILE: Final = re.compile(r"pid|time|_at\b|_at_|seen|changed|inode|digest|sha256")
# A VMM's own files, and those whose content depends on when they were made.
_OWN: Final = re.compile(r"/(jail|runtime)/|audit\.log|\.ext4$|\.bin$")


def seen(host: HostdProcess, ref: InstanceRef) -> Seen:
    """The whole state, with details of the instance `ref`."""
    return {
        "links": sorted(links(host.namespace)),
        "rules": rules(host.namespace),
        "groups": groups(host),
        "mounts": sorted(_plain(mount) for mount in mounts_of(host)),
        "vmms": len(vmms(host, ref)),
        "document": document(host, ref),
        "files": sorted(_files(host, ref)),
        "runtime": sorted(_names(host.runtime)),
        "ledger": ledger(host, ref),
        "redis": redis(host),
    }


def links(namespace: NetworkNamespace) -> Iterator[str]:
    """Devices except the loopback, with their owners, addresses and bridges."""
    with namespace.entered():
        shown = subprocess.run(["ip", "-j", "-d", "addr"], capture_output=True, check=True).stdout
    for link in json.loads(shown):
        if link.get("ifname") in (None, "lo"):
            continue
        addresses = [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]]
        data = link.get("linkinfo", {}).get("info_data", {})
        facts = [link["ifname"], link.get("master"), link.get("ifalias"), "UP" in link["flags"]]
        address = link["address"] if link.get("linkinfo", {}).get("info_kind") == "bridge" else ""
        yield _plain(
            f"{facts} {address} {addresses} {data.get('user')}"
        )  # the kernel chooses a TAP's address


def rules(namespace: NetworkNamespace) -> list[str]:
    """The rule set, one element per line, sorted, since sets have no order."""
    with namespace.entered():
        listed = subprocess.run(["nft", "-s", "list", "ruleset"], capture_output=True, check=True)
    return sorted(line.strip() for line in re.split(r"[,\n]", listed.stdout.decode()))


def groups(host: HostdProcess) -> dict[str, int]:
    """The number of processes of each control group below hostd's."""
    found = {}
    for mount in detect().mounts():
        top = mount / host.cgroup
        for directory, _, _ in os.walk(top):
            path = Path(directory)
            if path != top:
                found[_plain(f"{mount.name}/{path.relative_to(top)}")] = len(members((path,)))
    return found


def mounts_of(host: HostdProcess) -> list[str]:
    """Mount points below the host's directories."""
    return [str(point.relative_to(host.base)) for point in mounts.below(host.base)]


def vmms(host: HostdProcess, ref: InstanceRef) -> list[int]:
    """Pids of the jailers and VMMs of an instance, in any control group."""
    marks = (str(host.layout.jail_base(ref)).encode(), b"--daemonize")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if all(mark in words for mark in marks):
                found.append(int(entry.name))
    return found


def instance(host: HostdProcess, ref: InstanceRef) -> InstanceDoc | None:
    """instance.json, or None without one."""
    try:
        return parse_instance((host.layout.instance(ref) / "instance.json").read_bytes())
    except FileNotFoundError:
        return None


def document(host: HostdProcess, ref: InstanceRef) -> Any:
    """instance.json without what differs from run to run."""
    found = instance(host, ref)
    return None if found is None else json.loads(_plain(json.dumps(_steady(found.whole))))


def ledger(host: HostdProcess, ref: InstanceRef) -> dict[str, Any]:
    """The ledger, except the results of requests."""
    of = host.rows
    return {
        "open": of("SELECT request_id, state FROM requests WHERE state != 'published'"),
        "attempting": of("SELECT request_id FROM requests WHERE attempting != 0"),
        "status": of("SELECT status FROM instances WHERE instance_id = ?", ref.instance_id),
        "reserved": [
            [_plain(str(value)) for value in row]
            for row in of("SELECT kind, key, owner, vcpus, mem_mib FROM reservations ORDER BY 1, 2")
        ],
        "unpublished": of("SELECT COUNT(*) FROM outbox WHERE published = 0"),
    }


def published_events(host: HostdProcess, ref: InstanceRef, *, after: int) -> list[str]:
    """The published events of the instance, and of requests, after that event."""
    with host.redis._connect() as client:
        entries: Any = client.xrange(host.keys.events)
    numbered = {
        int(fields[b"seq"]): fields[b"event"] for _, fields in entries
    }  # published once or more
    shown = []
    for event in (json.loads(raw) for seq, raw in sorted(numbered.items()) if seq > after):
        if event.get("instance_id") in (None, ref.instance_id):
            words = ("event", "op", "before", "after", "reason", "outcome", "changed", "finding")
            shown.append(" ".join(str(event[word]) for word in words if word in event))
    # Two hostds may both have found that an instance needs nothing.
    return [line for line in shown if not line.endswith("hostd_restarted adopted")]


def last_event(host: HostdProcess) -> int:
    """The number of the newest event."""
    rows = host.rows("SELECT COALESCE(MAX(seq), 0) FROM outbox") if host.ledger.exists() else []
    return int(rows[0][0]) if rows else 0


def redis(host: HostdProcess) -> dict[str, int]:
    """The lengths of the lists and registries in Redis."""
    with host.redis._connect() as client:
        pipe = client.pipeline(transaction=False)
        pipe.llen(host.keys.queue).llen(host.keys.intermediate)
        pipe.zcard(host.keys.started).zcard(host.keys.deferred)
        counts = pipe.execute()
    return dict(zip(("queue", "intermediate", "started", "deferred"), counts, strict=True))


def _files(host: HostdProcess, ref: InstanceRef) -> Iterator[str]:
    top = host.layout.instance(ref)
    for path in _below([top]):
        found, name = path.lstat(), str(path.relative_to(top.parent))
        what = f"{_plain(name)} {stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"
        if stat.S_ISREG(found.st_mode) and not _OWN.search(name) and not name.endswith(".json"):
            what += f" {found.st_size} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
        yield what


def _names(top: Path) -> Iterator[str]:
    for path in _below([top]):
        name = str(path.relative_to(top))
        if not name.startswith("lock/instance-"):  # one of every instance ever, never removed
            yield _plain(name)


def _below(tops: Iterable[Path]) -> Iterator[Path]:
    for top in tops:
        for directory, directories, names in os.walk(top):
            yield from (Path(directory) / name for name in (*directories, *names))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _steady(v) for k, v in value.items() if not _VOLATILE.search(k)}
    return value


def _plain(text: str) -> str:
    return _NAMES.sub("ID", text)


def results(host: HostdProcess, job: str) -> set[bytes]:
    """The distinct results that were published for a job; `replayed` makes no difference."""
    with host.redis._connect() as client:
        entries: Any = client.xrange(keys.results(job))
    published = (base64.b64decode(fields[b"return_value"]) for _, fields in entries)
    return {result.replace(b'"replayed":true', b'"replayed":false') for result in published}
