"""What must be true on a host wherever hostd was killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.crash.process import seen
from tests.fixtures.worker import HostdProcess
from worker.host.images.images import DiskImages
from worker.model.names import InstanceRef
from worker.ports import ImageState

AWAKE: Final = ("running", "warm")
_TAP: Final = re.compile(r'"(tn\d+i\d+)"')  # a concrete one, not a pattern of the base rules


def always(host: HostdProcess, ref: InstanceRef) -> Iterator[str]:
    """The violations of what must be true at any time, also before hostd is started again."""
    if (count := len(seen.vmms(host, ref))) > 1:
        yield f"{count} VMMs of one instance"
    doc = seen.instance(host, ref)
    status = None if doc is None else doc.fields.status
    if status == "sleeping" and not _ending(host, ref):
        images = DiskImages(host.layout)
        if faults := images.verify(ref):
            yield f"sleeping, and its image does not verify: {faults}"
        elif (image := images.find(ref)) is None or image.state is not ImageState.PUBLISHED:
            yield f"sleeping without an image: {image}"


def _ending(host: HostdProcess, ref: InstanceRef) -> bool:
    """Whether a request is running that removes the image or has loaded it."""
    ops = host.rows(
        "SELECT op FROM requests WHERE state = 'accepted' AND instance_id = ?", ref.instance_id
    )
    return any(op in ("StopInstance", "DestroyInstance", "WakeInstance") for (op,) in ops)


def at_rest(host: HostdProcess, ref: InstanceRef) -> Iterator[str]:
    """The violations of what must be true once hostd has nothing to do."""
    yield from always(host, ref)
    doc = seen.instance(host, ref)
    status = None if doc is None else doc.fields.status
    known = host.rows("SELECT status FROM instances WHERE instance_id = ?", ref.instance_id)
    if known and known[0][0] != status:
        yield f"the ledger says {known[0][0]}, instance.json {status}"
    yield from _unowned(host, ref, awake=status in AWAKE)
    if (status in AWAKE) != bool(seen.vmms(host, ref)):
        yield f"{status} with {len(seen.vmms(host, ref))} VMMs"


def _unowned(host: HostdProcess, ref: InstanceRef, *, awake: bool) -> Iterator[str]:
    """Devices, groups, mounts, jails and rules that no running instance owns."""
    doc = seen.instance(host, ref)
    own = doc.fields.net.tap_dev if awake and doc is not None and doc.fields.net else ""
    for link in seen.links(host.namespace):
        name = link.split("'")[1]
        if name.startswith("tn") and name != own:
            yield f"unowned TAP {name}"
    for rule in seen.rules(host.namespace):
        if (tap := _TAP.search(rule)) and tap[1] != own:
            yield f"unowned rule {rule}"
    if awake:
        return
    for group, count in seen.groups(host).items():
        yield f"unowned control group {group} with {count} processes"
    if host.layout.jail_base(ref).exists():
        yield "unowned jail"
    for mount in seen.mounts_of(host):
        if not mount.endswith("/secrets"):
            yield f"unowned mount {mount}"
